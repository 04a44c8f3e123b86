"use strict";
SwaggerUIBundle({
  dom_id: "#calls",
  url: "openapi.json",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "none",
  validatorUrl: null, // else it would send the document to a service on the internet
});
