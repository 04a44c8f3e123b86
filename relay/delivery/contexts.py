"""The TLS contexts of a courier: one for each identity in use, made in a thread when it is first needed."""

import asyncio
import ssl
from collections import OrderedDict

from relay.core.tls import TlsIdentity, context_of

CONTEXTS_MAX = 64
"""How many are kept, those used last: one that trusts the authorities of this host takes about a megabyte."""


class Contexts:
    """Owner of the contexts. A connection keeps the one that it was made with, whatever becomes of it here."""

    def __init__(self, default: TlsIdentity) -> None:
        self._default = default
        self._contexts: OrderedDict[TlsIdentity, ssl.SSLContext] = OrderedDict()
        self._making = asyncio.Lock()

    def kept(self, identity: TlsIdentity | None) -> ssl.SSLContext | None:
        """Return the context of an identity (None: the default one) if it is there. O(1)"""
        identity = identity or self._default
        context = self._contexts.get(identity)
        if context is not None:
            self._contexts.move_to_end(identity)
        return context

    async def get(self, identity: TlsIdentity | None) -> ssl.SSLContext:
        """Return the context of an identity; `ssl.SSLError` when OpenSSL refuses what it holds. One is made at a time."""
        async with self._making:
            context = self.kept(identity)  # another attempt may have asked first
            if context is None:
                identity = identity or self._default
                context = await asyncio.to_thread(context_of, identity)
                self._keep(identity, context)
            return context

    def _keep(self, identity: TlsIdentity, context: ssl.SSLContext) -> None:
        self._contexts[identity] = context
        if len(self._contexts) > CONTEXTS_MAX:
            self._contexts.popitem(last=False)
