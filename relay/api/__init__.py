"""The HTTP API: listeners, authentication, and one module for each kind of resource."""
