"""Signatures by pairs of keys: the relay signs with the private one, and receivers verify with the public one.

Few contracts sign this way, and importing `cryptography` takes longer than all others of this package together: so
it is imported where a key is first needed.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Sign = Callable[[bytes], bytes]
Check = Callable[[bytes, bytes], bool]
"""content, signature → whether it is right"""

RSA_BITS_MIN, RSA_BITS_MAX = 2048, 4096
"""Below, keys have been broken; above, one signature takes longer than 5 ms, in which nothing else happens."""

RSA_BITS = 2048

_SEED_BYTES = 32
_P256_BYTES = 32
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Pair(NamedTuple):
    """What signs and verifies by one algorithm."""

    load: Callable[[bytes], Any]  # the private key; ValueError if it does not fit
    load_public: Callable[[bytes], Any]
    sign: Callable[[Any, bytes], bytes]
    verify: Callable[[Any, bytes, bytes], None]  # raises InvalidSignature
    new: Callable[[Callable[[int], bytes]], bytes]  # the bytes of a private key, from `random_bytes(count)`

    def signs(self, key: bytes) -> Sign:
        """Prepare a private key; ValueError with the end of a sentence that begins "the secret …"."""
        private = self.load(key)
        return lambda content: self.sign(private, content)

    def public_bytes(self, key: bytes) -> bytes:
        """Return the public half of a private key: the 32 bytes of ed25519, else SubjectPublicKeyInfo in DER."""
        return _public_bytes(self.load(key).public_key())

    def checks(self, key: bytes, *, public: bool) -> Check:
        """Prepare what verifies, with either half; ValueError as `signs`."""
        from cryptography.exceptions import InvalidSignature

        half = self.load_public(key) if public else self.load(key).public_key()

        def check(content: bytes, signature: bytes) -> bool:
            try:
                self.verify(half, signature, content)
            except InvalidSignature:
                return False
            return True

        return check


def _public_bytes(public: Any) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(public, Ed25519PublicKey):
        return public.public_bytes_raw()
    raw: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw


def _load_der(key: bytes, kind: str) -> Any:
    """Read a private key in DER: PKCS#8, or the older forms of RSA and elliptic curves."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        return load_der_private_key(key, None)
    except TypeError:
        raise ValueError("is a key with a passphrase; take it off with openssl pkey") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"is no private key of the kind {kind} (PKCS#8)") from None


def _load_public_der(key: bytes, kind: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        return load_der_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"is no public key of the kind {kind}") from None


# -- ed25519 -----------------------------------------------------------------------------------------------------------


def _load_ed25519(key: bytes) -> Any:
    """Take a seed, a seed and the public key that belongs to it (the form of `whsk_`), or PKCS#8."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(key) in (_SEED_BYTES, 2 * _SEED_BYTES):
        private = Ed25519PrivateKey.from_private_bytes(key[:_SEED_BYTES])
        if key[_SEED_BYTES:] not in (b"", private.public_key().public_bytes_raw()):
            raise ValueError("is no ed25519 pair: its public half does not belong to its private half")
        return private
    if not key.startswith(b"0"):  # the beginning of DER
        raise ValueError(f"has {len(key)} bytes; an ed25519 key has 32, or 64 with its public half")
    return _of_class(_load_der(key, "ed25519"), Ed25519PrivateKey, "ed25519")


def _load_public_ed25519(key: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(key) == _SEED_BYTES:
        return Ed25519PublicKey.from_public_bytes(key)
    return _of_class(_load_public_der(key, "ed25519"), Ed25519PublicKey, "ed25519")


def _new_ed25519(random_bytes: Callable[[int], bytes]) -> bytes:
    """Make a seed with its public half."""
    seed = random_bytes(_SEED_BYTES)
    return seed + _public_bytes(_load_ed25519(seed).public_key())


def _of_class(key: Any, wanted: type, kind: str) -> Any:
    if not isinstance(key, wanted):
        raise ValueError(f"is a key of another kind than {kind}")
    return key


# -- RSA ---------------------------------------------------------------------------------------------------------------


def _load_rsa(key: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    return _of_size(_of_class(_load_der(key, "RSA"), RSAPrivateKey, "RSA"))


def _load_public_rsa(key: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    return _of_size(_of_class(_load_public_der(key, "RSA"), RSAPublicKey, "RSA"))


def _of_size(key: Any) -> Any:
    if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        raise ValueError(f"is an RSA key of {key.key_size} bits; take one of {RSA_BITS_MIN} to {RSA_BITS_MAX}")
    return key


def _new_rsa(_: Callable[[int], bytes]) -> bytes:
    """Make a key of OpenSSL's own randomness: primes are no matter of a few random bytes. About 60 ms."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    return _pkcs8(generate_private_key(65537, RSA_BITS))


def _rsa_options(*, pss: bool) -> tuple[Any, Any]:
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.hashes import SHA256

    digest = SHA256()
    return padding.PSS(padding.MGF1(digest), digest.digest_size) if pss else padding.PKCS1v15(), digest


def _rsa(*, pss: bool) -> Pair:
    return Pair(
        load=_load_rsa,
        load_public=_load_public_rsa,
        sign=lambda private, content: private.sign(content, *_rsa_options(pss=pss)),
        verify=lambda public, signature, content: public.verify(signature, content, *_rsa_options(pss=pss)),
        new=_new_rsa,
    )


# -- ECDSA on P-256 ----------------------------------------------------------------------------------------------------


def _load_p256(key: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    return _of_curve(_of_class(_load_der(key, "P-256"), EllipticCurvePrivateKey, "P-256"))


def _load_public_p256(key: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    return _of_curve(_of_class(_load_public_der(key, "P-256"), EllipticCurvePublicKey, "P-256"))


def _of_curve(key: Any) -> Any:
    if key.curve.name != "secp256r1":
        raise ValueError(f"is a key on the curve {key.curve.name}; take one on P-256 (prime256v1)")
    return key


def _new_p256(random_bytes: Callable[[int], bytes]) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key

    number = (
        int.from_bytes(random_bytes(_P256_BYTES + 16)) % (_P256_ORDER - 1) + 1
    )  # so long that no number is likelier
    return _pkcs8(derive_private_key(number, SECP256R1()))


def _sign_p256(private: Any, content: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    signature: bytes = private.sign(content, ECDSA(SHA256()))
    return signature


def _verify_p256(public: Any, signature: bytes, content: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    public.verify(signature, content, ECDSA(SHA256()))


def _sign_p256_raw(private: Any, content: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    return b"".join(number.to_bytes(_P256_BYTES) for number in decode_dss_signature(_sign_p256(private, content)))


def _verify_p256_raw(public: Any, signature: bytes, content: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    if len(signature) != 2 * _P256_BYTES:
        raise InvalidSignature
    halves = (int.from_bytes(half) for half in (signature[:_P256_BYTES], signature[_P256_BYTES:]))
    _verify_p256(public, encode_dss_signature(*halves), content)


def _pkcs8(private: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key: bytes = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return key


PAIRS: Mapping[str, Pair] = {
    "ed25519": Pair(
        _load_ed25519,
        _load_public_ed25519,
        lambda private, content: private.sign(content),
        lambda public, signature, content: public.verify(signature, content),
        _new_ed25519,
    ),
    "rsa-sha256": _rsa(pss=False),
    "rsa-pss-sha256": _rsa(pss=True),
    "ecdsa-p256-sha256": Pair(_load_p256, _load_public_p256, _sign_p256, _verify_p256, _new_p256),
    "ecdsa-p256-sha256-raw": Pair(_load_p256, _load_public_p256, _sign_p256_raw, _verify_p256_raw, _new_p256),
}
"""By name. RSA is PKCS#1 v1.5 or PSS with a salt of 32 bytes; ECDSA writes DER, or `raw` the two numbers side by side."""
