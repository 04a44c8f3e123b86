// Receivers as the services document them, on http alone. A configuration comes as one JSON argument:
// {"videoaiditor": secret, "editframe": secret}. Prints its port. Besides the hooks it answers GET /received with all
// requests since the last time (method, path, headers, body in base64, status, what was thrown), and GET /tally with
// sums over all of them.
const crypto = require("crypto");
const http = require("http");

const secrets = JSON.parse(process.argv[2]);
let received = [];
const tally = { requests: 0, accepted: 0, refused: 0, threw: 0, differing: 0 };

// -- VideoAiditor, "Verifying Webhook Signatures", as printed ---------------------------------------------------------

function verifyWebhookSignature(payload, signature, secret) {
  const expectedSignature = crypto
    .createHmac("sha256", secret)
    .update(JSON.stringify(payload))
    .digest("hex");

  return crypto.timingSafeEqual(
    Buffer.from(signature),
    Buffer.from(expectedSignature)
  );
}

function videoaiditor(header) {
  return (req, res) => {
    const signature = req.headers[header];
    const payload = req.body;

    if (!verifyWebhookSignature(payload, signature, secrets.videoaiditor)) {
      return res.status(401).send("Invalid signature");
    }

    res.status(200).send("OK");
  };
}

// -- Editframe: hex of HMAC-SHA256(webhook secret, body); its samples hash the raw body, and JSON.stringify(req.body) --

function editframe(bodyOf) {
  return (req, res) => {
    const signature = req.headers["x-webhook-signature"];
    const expected = crypto.createHmac("sha256", secrets.editframe).update(bodyOf(req)).digest("hex");

    if (!crypto.timingSafeEqual(Buffer.from(signature), Buffer.from(expected))) {
      return res.status(401).send("Invalid signature");
    }

    res.status(200).send("OK");
  };
}

const hooks = {
  "/videoaiditor": videoaiditor("x-signature"), // the one correction: Node writes names of headers in lower case
  "/videoaiditor-as-printed": videoaiditor("X-Signature"),
  "/editframe-raw": editframe((req) => req.rawBody),
  "/editframe-stringify": editframe((req) => JSON.stringify(req.body)),
};

// -- as much of Express as they need ----------------------------------------------------------------------------------

function response(res) {
  return {
    status(code) {
      res.statusCode = code;
      return this;
    },
    send(text) {
      res.end(text);
    },
  };
}

// What express.json() does: application/json alone, no content coding it does not know, UTF-8, an object or an array.
function parse(req, raw) {
  if (req.headers["content-type"] !== "application/json" || req.headers["content-encoding"]) return undefined;
  if (Number(req.headers["content-length"]) !== raw.length) throw new Error("no Content-Length, or a wrong one");
  const text = raw.toString("utf8");
  if (!/^[\x20\x09\x0a\x0d]*[[{]/.test(text)) throw new SyntaxError("neither object nor array");
  return JSON.parse(text);
}

function handle(req, res, raw) {
  const entry = { method: req.method, path: req.url, headers: req.headers, body: raw.toString("base64"), threw: null };
  try {
    req.rawBody = raw;
    req.body = parse(req, raw);
    if (!Buffer.from(JSON.stringify(req.body) ?? "").equals(raw)) tally.differing += 1;
    hooks[req.url](req, response(res));
  } catch (error) {
    entry.threw = error.code ?? error.name;
    res.statusCode = 500;
    res.end(String(error));
  }
  entry.status = res.statusCode;
  received.push(entry);
  tally.requests += 1;
  tally[entry.threw ? "threw" : entry.status === 200 ? "accepted" : "refused"] += 1;
}

const server = http.createServer((req, res) => {
  if (req.method === "GET" && req.url === "/tally") return res.end(JSON.stringify(tally));
  if (req.method === "GET" && req.url === "/received") {
    res.end(JSON.stringify(received));
    received = [];
    return;
  }
  if (req.method !== "POST" || !(req.url in hooks)) {
    res.statusCode = 404;
    return res.end();
  }
  const parts = [];
  req.on("data", (part) => parts.push(part));
  req.on("end", () => handle(req, res, Buffer.concat(parts)));
});

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume().on("end", () => process.exit(0)); // whoever started this has gone
