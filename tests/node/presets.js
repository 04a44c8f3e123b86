// Reads a JSON array of {preset, secret, headers, body} and prints, for each, whether the service's own package takes it.
require("@shopify/shopify-api/adapters/node");
const { shopifyApi, LATEST_API_VERSION, ApiVersion } = require("@shopify/shopify-api");
const Mux = require("@mux/mux-node").default;
const messages = JSON.parse(require("fs").readFileSync(0, "utf8"));

const takes = {
  async github({ secret, headers, body }) {
    const { verify } = await import("@octokit/webhooks-methods");
    return verify(secret, body, headers["X-Hub-Signature-256"]);
  },
  async shopify({ secret, headers, body }) {
    const apiVersion = LATEST_API_VERSION ?? Object.values(ApiVersion).pop();
    const app = { apiSecretKey: secret, apiKey: "key", hostName: "example.com", isEmbeddedApp: false, apiVersion };
    const shopify = shopifyApi({ ...app, logger: { log() {} } });
    const rawRequest = { method: "POST", url: "/hooks", headers };
    return (await shopify.webhooks.validate({ rawBody: body, rawRequest })).valid;
  },
  async mux({ secret, headers, body }) {
    const mux = new Mux({ tokenId: "id", tokenSecret: "secret" });
    return mux.webhooks.verifySignature(body, headers, secret).then(() => true, () => false);
  },
};

Promise.all(messages.map((message) => takes[message.preset](message))).then((verdicts) =>
  console.log(JSON.stringify(verdicts)),
);
