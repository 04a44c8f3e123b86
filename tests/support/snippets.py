"""The code of a document, and the interpreters that run it.

A block of code with the comment `<!-- run: NAME LANGUAGE -->` before it is a snippet. Those that define `verify` are run with
a driver that reads deliveries, one a line, and prints `true` or `false` for each: secret, headers and body in base64.
"""

import re
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[2] / "docs"

_SNIPPET = re.compile(r"^<!-- run: (\S+) (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(page: str) -> dict[tuple[str, str], str]:
    """Return every snippet of a page of docs/, by name and language."""
    found = _SNIPPET.findall((DOCS / page).read_text())
    made = {(name, language): code for name, language, code in found}
    assert len(made) == len(found), "two snippets have one name"
    return made


class Case(NamedTuple):
    """One delivery to judge."""

    headers: dict[str, str]
    body: bytes
    secret: str

    @property
    def line(self) -> str:
        headers = "\n".join(f"{name.lower()}: {value}" for name, value in self.headers.items())
        return " ".join(b64encode(text).decode() for text in (self.secret.encode(), headers.encode(), self.body))


PYTHON = """
{code}

import sys
for line in sys.stdin:
    secret, headers, body = (base64_of.b64decode(text) for text in line.rstrip("\\n").split(" "))
    pairs = dict(one.split(": ", 1) for one in headers.decode().split("\\n"))
    print("true" if verify(pairs, body, secret.decode()) else "false")
"""

NODE = """
{code}

for (const line of require("node:fs").readFileSync(0, "utf8").split("\\n").filter(Boolean)) {{
  const [secret, headers, body] = line.split(" ").map((text) => Buffer.from(text, "base64"));
  const pairs = headers.toString().split("\\n").map((one) => [one.slice(0, one.indexOf(": ")), one.slice(one.indexOf(": ") + 2)]);
  console.log(verify(Object.fromEntries(pairs), body, secret.toString()));
}}
"""

GO = """package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"strings"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var parts [3]string
		for index, text := range strings.Split(lines.Text(), " ") {
			decoded, _ := base64.StdEncoding.DecodeString(text)
			parts[index] = string(decoded)
		}
		headers := http.Header{}
		for _, one := range strings.Split(parts[1], "\\n") {
			name, value, _ := strings.Cut(one, ": ")
			headers.Set(name, value)
		}
		fmt.Println(verify(headers, []byte(parts[2]), parts[0]))
	}
}
"""

PHP = """<?php
{code}

while (($line = fgets(STDIN)) !== false) {{
    [$secret, $text, $body] = array_map('base64_decode', explode(' ', rtrim($line, "\\n")));
    $headers = [];
    foreach (explode("\\n", $text) as $one) {{
        [$name, $value] = explode(': ', $one, 2);
        $headers[$name] = $value;
    }}
    echo verify($headers, $body, $secret) ? "true\\n" : "false\\n";
}}
"""

RUBY = """
{code}

STDIN.each_line do |line|
  secret, text, body = line.chomp.split(" ", -1).map {{ |part| part.unpack1("m") }}
  headers = text.split("\\n").to_h {{ |one| one.split(": ", 2) }}
  puts verify(headers, body, secret)
end
"""

JAVA = """{imports}
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashMap;

public class Driver {{
    public static void main(String[] arguments) throws Exception {{
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {{
            String[] parts = line.split(" ", -1);
            Map<String, String> headers = new HashMap<>();
            for (String one : new String(Base64.getDecoder().decode(parts[1])).split("\\n")) {{
                String[] pair = one.split(": ", 2);
                headers.put(pair[0], pair[1]);
            }}
            String secret = new String(Base64.getDecoder().decode(parts[0]));
            System.out.println(Webhooks.verify(headers, Base64.getDecoder().decode(parts[2]), secret));
        }}
    }}
}}

{code}
"""

INTERPRETERS = {"python": "python3", "node": "node", "go": "go", "php": "php", "ruby": "ruby", "java": "java"}


def is_there(language: str) -> bool:
    return shutil.which(INTERPRETERS[language]) is not None


def judged(language: str, code: str, cases: Iterable[Case], folder: Path) -> list[bool]:
    """Run `verify` of a snippet on each case; a snippet that throws fails the test with what it printed."""
    lines = "".join(case.line + "\n" for case in cases)
    command = _command(language, code, folder)
    done = subprocess.run(command, cwd=folder, input=lines, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return [line == "true" for line in done.stdout.splitlines()]


def _command(language: str, code: str, folder: Path) -> list[str]:
    """Write what is run into a folder, and return how it is."""
    match language:
        case "python":
            (folder / "snippet.py").write_text("import base64 as base64_of\n" + PYTHON.format(code=code))
            return [sys.executable, "snippet.py"]
        case "node":
            (folder / "snippet.js").write_text(NODE.format(code=code))
            return ["node", "snippet.js"]
        case "go":
            (folder / "snippet.go").write_text(code)
            (folder / "driver.go").write_text(GO)
            return ["go", "run", "snippet.go", "driver.go"]
        case "php":
            (folder / "snippet.php").write_text(PHP.format(code=code))
            return ["php", "snippet.php"]
        case "ruby":
            (folder / "snippet.rb").write_text(RUBY.format(code=code))
            return ["ruby", "snippet.rb"]
        case _:
            imports = "".join(line for line in code.splitlines(keepends=True) if line.startswith("import "))
            rest = "".join(line for line in code.splitlines(keepends=True) if not line.startswith("import "))
            (folder / "Driver.java").write_text(JAVA.format(imports=imports, code=rest))
            return ["java", "Driver.java"]
