// Reads documents, each as its length (4 bytes, big endian) and its bytes, until the end of standard input. Answers each
// with one letter, a length and bytes: "w" and JSON.stringify(JSON.parse(document)), "r" when JSON.parse refuses it, or
// "u" when it is not UTF-8 (Node would put U+FFFD there and go on).
const input = require("fs").readFileSync(0);
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function answer(document) {
  let text;
  try {
    text = utf8.decode(document);
  } catch {
    return ["u", ""];
  }
  try {
    return ["w", JSON.stringify(JSON.parse(text))];
  } catch (error) {
    if (error instanceof SyntaxError) return ["r", ""];
    throw error;
  }
}

const output = [];
for (let start = 0; start < input.length; ) {
  const end = start + 4 + input.readUInt32BE(start);
  const [letter, text] = answer(input.subarray(start + 4, end));
  const bytes = Buffer.from(text);
  const head = Buffer.alloc(5);
  head.write(letter);
  head.writeUInt32BE(bytes.length, 1);
  output.push(head, bytes);
  start = end;
}
process.stdout.write(Buffer.concat(output));
