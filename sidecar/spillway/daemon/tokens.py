"""Bearer tokens of /status: a JWT signed with Ed25519 by the operator, for this pod, good for two minutes at most."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_LIFETIME_SECONDS = 120
LEEWAY_SECONDS = 30  # two nodes' clocks need not agree to the second


def find_refusal(header: str | None, public_keys: Sequence[str], pod_uid: str) -> str | None:
    """Why this Authorization header is refused; None when it is good. `public_keys` are raw keys in base64."""
    if header is None or not header.startswith("Bearer "):
        return "a bearer token is needed: send `Authorization: Bearer <token>`"
    problem = "no public key is configured, so no token can be checked"
    for encoded in public_keys:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded))
        try:
            claims = jwt.decode(
                header.removeprefix("Bearer "),
                key,
                algorithms=["EdDSA"],
                audience=pod_uid,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "aud"]},
            )
        except jwt.InvalidTokenError as error:
            problem = f"the token is not good: {error}"
            continue
        if claims["exp"] - claims["iat"] > MAX_LIFETIME_SECONDS:
            return f"the token lives longer than {MAX_LIFETIME_SECONDS} s"
        return None
    return problem
