// Reads a JSON array of {secret, headers, body, now_ms} and prints, for each, whether npm's standardwebhooks takes it.
const { Webhook } = require("standardwebhooks");
const messages = JSON.parse(require("fs").readFileSync(0, "utf8"));

function verdict({ secret, headers, body, now_ms }) {
  Date.now = () => now_ms;
  try {
    new Webhook(secret).verify(body, headers);
    return "verified";
  } catch (error) {
    return error.message;
  }
}

console.log(JSON.stringify(messages.map(verdict)));
