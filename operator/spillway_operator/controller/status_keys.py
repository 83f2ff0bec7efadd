"""The key pair that opens a sidecar's /status: private in a Secret, public in a ConfigMap.

The operator signs a token per read (Ed25519, audience = the pod's uid, valid 2 minutes); the webhook writes the public
keys into each pod's SPILLWAY_CONFIG, so that no Secret ever reaches a tenant's namespace. Two public keys can stand in
the ConfigMap, which is how a rotation overlaps.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spillway_operator.kube.client import ApiServer, FieldManager
from spillway_operator.kube.resources import CONFIG_MAPS, SECRETS, Manifest

SECRET_NAME = "spillway-status-key"
CONFIG_MAP_NAME = "spillway-status-keys"
PRIVATE_KEY = "private.pem"
PUBLIC_KEY = "current"
TOKEN_SECONDS = 120
ISSUER = "spillway-operator"

log = structlog.get_logger()


@dataclass(frozen=True)
class StatusSigner:
    """Signs tokens for one audience at a time."""

    private_key: Ed25519PrivateKey

    def sign(self, pod_uid: str) -> str:
        """A token that only the sidecar of `pod_uid` accepts, for 2 minutes from now."""
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": pod_uid, "iat": now, "nbf": now - 5, "exp": now + TOKEN_SECONDS - 5}
        return jwt.encode(claims, self.private_key, algorithm="EdDSA")

    def public_key(self) -> str:
        """The raw public key in base64, the form that SPILLWAY_CONFIG carries."""
        return base64.b64encode(self.private_key.public_key().public_bytes_raw()).decode()

    def private_pem(self) -> bytes:
        """The private key as unencrypted PKCS#8 PEM, for the Secret."""
        return self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


async def ensure_signer(api: ApiServer, namespace: str) -> StatusSigner:
    """Read the key pair from the release namespace, or make it; publish the public key if it is not there yet."""
    signer = await _read_signer(api, namespace)
    if signer is None:
        signer = StatusSigner(Ed25519PrivateKey.generate())
        await api.apply(_build_secret(signer, namespace), SECRETS, FieldManager.STATUS_KEYS)
        log.info("status key made", namespace=namespace)
    published = await api.get(CONFIG_MAPS, CONFIG_MAP_NAME, namespace)
    if published is None or (published.get("data") or {}).get(PUBLIC_KEY) != signer.public_key():
        await api.apply(_build_config_map(signer, namespace), CONFIG_MAPS, FieldManager.STATUS_KEYS)
    return signer


async def _read_signer(api: ApiServer, namespace: str) -> StatusSigner | None:
    secret = await api.get(SECRETS, SECRET_NAME, namespace)
    encoded = ((secret or {}).get("data") or {}).get(PRIVATE_KEY)
    if not encoded:
        return None
    try:
        key = serialization.load_pem_private_key(base64.b64decode(encoded), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        log.warning("status key is damaged, a new one is made", namespace=namespace, reason=str(error))
        return None
    return StatusSigner(key) if isinstance(key, Ed25519PrivateKey) else None


def _build_secret(signer: StatusSigner, namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": SECRET_NAME, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "spillway"}},
        "data": {PRIVATE_KEY: base64.b64encode(signer.private_pem()).decode()},
    }


def _build_config_map(signer: StatusSigner, namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": CONFIG_MAP_NAME,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "spillway"},
        },
        "data": {PUBLIC_KEY: signer.public_key()},
    }
