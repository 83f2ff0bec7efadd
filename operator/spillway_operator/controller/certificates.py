"""The webhook's serving certificate: our own CA, a leaf in a Secret that the webhook mounts, the caBundle patched.

The CA (one year) and the leaf (90 days) are renewed when a third of their life is left. A new CA is first added to the
caBundle beside the old one and signs leaves only from the next round on, so that at no moment a webhook replica serves
a certificate that the API server does not trust. Where a CA was lost, what the caBundle held of it stays for that time too: replicas
serve its leaf until the kubelet has brought them the new one. The private CA key never leaves its own Secret. The tokens of the webhook's
path (inject_tokens.py) stand beside the leaf and are renewed with it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spillway_operator.controller.inject_tokens import (
    InjectToken,
    called_word,
    parse_tokens,
    render_tokens,
    renew_tokens,
    token_to_call,
)
from spillway_operator.kube.client import ApiServer, FieldManager
from spillway_operator.kube.resources import SECRETS, WEBHOOK_CONFIGURATIONS, Manifest
from spillway_operator.metrics import CERTIFICATE_EXPIRY

CA_SECRET = "spillway-webhook-ca"
SERVING_SECRET = "spillway-webhook-tls"
CA_LIFE = timedelta(days=365)
LEAF_LIFE = timedelta(days=90)
# How long a new CA stands in the caBundle before it signs: longer than any cache between us and the API server.
CA_OVERLAP = timedelta(hours=1)
# Of CAs without a key: what is lost twice within an hour needs no more.
MAX_OTHERS = 2

log = structlog.get_logger()


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)


@dataclass(frozen=True)
class Authority:
    """The CAs in use, oldest first; there are two only while one follows the other."""

    pairs: tuple[Pair, ...]

    @property
    def bundle(self) -> bytes:
        return b"".join(pair.certificate for pair in self.pairs)

    def signer(self, now: datetime) -> Pair:
        """The newest CA that has stood in the bundle long enough; at the very start the only one."""
        trusted = [p for p in self.pairs if now - p.parsed.not_valid_before_utc >= CA_OVERLAP]
        return (trusted or list(self.pairs[:1]))[-1]


def make_ca(now: datetime) -> Pair:
    """A self-signed CA, valid from one minute ago, since clocks differ."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spillway-webhook-ca")])
    builder = _certificate(name, name, key.public_key(), now, CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_leaf(authority: Pair, dns_names: tuple[str, ...], now: datetime) -> Pair:
    """A serving certificate for `dns_names`, signed by `authority`."""
    ca_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"Secret {CA_SECRET}: the CA key is no EC key; delete the Secret and a new one is made")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spillway-webhook")])
    builder = _certificate(subject, authority.parsed.subject, key.public_key(), now, LEAF_LIFE)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(issuer_key, critical=False)
    names = [x509.DNSName(name) for name in dns_names]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    return _pair(builder.sign(ca_key, hashes.SHA256()), key)


def renew_authority(authority: Authority | None, now: datetime) -> Authority:
    """Add a new CA where none is fresh, drop expired ones; the same object where nothing is to do."""
    if authority is None:
        return Authority((make_ca(now),))
    pairs = tuple(p for p in authority.pairs if p.parsed.not_valid_after_utc > now)
    if not pairs or not _is_fresh(pairs[-1].parsed, now):
        pairs = (*pairs, make_ca(now))
    return authority if pairs == authority.pairs else Authority(pairs)


def leaf_serves(leaf: Pair | None, authority: Pair, dns_names: tuple[str, ...], now: datetime) -> bool:
    """Whether `leaf` is fresh, fits its key, is signed by `authority` and names every one of `dns_names`."""
    if leaf is None or not is_whole(leaf):
        return False
    parsed = leaf.parsed
    try:
        parsed.verify_directly_issued_by(authority.parsed)
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return set(dns_names) <= set(names.get_values_for_type(x509.DNSName)) and _is_fresh(parsed, now)


def is_whole(pair: Pair) -> bool:
    """Whether certificate and key can be read and belong together. Whoever may write the Secret may damage it."""
    try:
        key = serialization.load_pem_private_key(pair.key, password=None)
        return isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == pair.parsed.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


async def ensure_webhook_trust(
    api: ApiServer, namespace: str, configuration: str, dns_names: tuple[str, ...], now: datetime | None = None
) -> None:
    """Make or renew CA, leaf and tokens where needed; put caBundle and path into the webhook configuration. Quiet at rest."""
    now = now or datetime.now(UTC).replace(microsecond=0)
    observed = await api.get(WEBHOOK_CONFIGURATIONS, configuration)
    if observed is None:
        log.warning("webhook configuration is missing, pods start without a sidecar", name=configuration)
    ca_secret = await api.get(SECRETS, CA_SECRET, namespace)
    authority = renew_authority(_parse_authority(ca_secret), now)
    # What another manager added to the Secret is not ours to remove, and no reason to write again.
    held = _decode(ca_secret)
    if any(held.get(name) != value for name, value in _render_authority(authority).items()):
        await api.apply(_build_ca_secret(authority, namespace), SECRETS, FieldManager.CERTIFICATES)
        log.info("webhook CA written", namespace=namespace)
    secret = await api.get(SECRETS, SERVING_SECRET, namespace)
    if observed is not None:  # before the leaf: trust first, then serve
        is_settled = _is_settled(_parse_leaf(secret), authority.signer(now), dns_names, now)
        await _ensure_bundle(api, observed, authority, () if is_settled else _find_others(observed, authority, now))
    tokens = await _ensure_serving_secret(api, secret, namespace, authority, dns_names, _called_word(observed), now)
    if observed is not None:  # after the Secret: admit first, then call
        await _ensure_path(api, observed, token_to_call(tokens, now))


def _is_settled(leaf: Pair | None, signer: Pair, dns_names: tuple[str, ...], now: datetime) -> bool:
    """Whether every replica serves `leaf` by now, so that no other's CA is needed."""
    if leaf is None or not leaf_serves(leaf, signer, dns_names, now):
        return False
    return now - leaf.parsed.not_valid_before_utc >= CA_OVERLAP


def _find_others(observed: Manifest, authority: Authority, now: datetime) -> tuple[bytes, ...]:
    """CAs that the API server trusts and of which we have no key any more, each as PEM, the last of them."""
    known = {pair.parsed for pair in authority.pairs}
    found: dict[bytes, None] = {}
    for webhook in observed.get("webhooks") or []:
        for certificate in _parse_bundle((webhook.get("clientConfig") or {}).get("caBundle")):
            if certificate not in known and certificate.not_valid_after_utc > now:
                found[certificate.public_bytes(serialization.Encoding.PEM)] = None
    return tuple(found)[-MAX_OTHERS:]


def _parse_bundle(encoded: str | None) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(base64.b64decode(encoded or ""))
    except ValueError:
        return []  # none, or damaged


async def _ensure_serving_secret(
    api: ApiServer,
    secret: Manifest | None,
    namespace: str,
    authority: Authority,
    dns_names: tuple[str, ...],
    called: str | None,
    now: datetime,
) -> tuple[InjectToken, ...]:
    stored, leaf = parse_tokens(_decode(secret)), _parse_leaf(secret)
    signer = authority.signer(now)
    serves = leaf_serves(leaf, signer, dns_names, now)
    tokens = renew_tokens(stored, called, now, rotates=not serves)
    if leaf is None or not serves:
        leaf = make_leaf(signer, dns_names, now)
        log.info("webhook certificate made", namespace=namespace)
    if not serves or tokens != stored:
        manifest = _build_serving_secret(leaf, authority, tokens, namespace)
        await api.apply(manifest, SECRETS, FieldManager.CERTIFICATES)
    CERTIFICATE_EXPIRY.set(leaf.parsed.not_valid_after_utc.timestamp())
    return tokens


def _called_word(observed: Manifest | None) -> str | None:
    """The token that the API server calls; None where its webhooks have none in common."""
    configs = [webhook.get("clientConfig") or {} for webhook in (observed or {}).get("webhooks") or []]
    words = {called_word((config.get("service") or {}).get("path")) for config in configs}
    return words.pop() if len(words) == 1 else None


async def _ensure_bundle(api: ApiServer, observed: Manifest, authority: Authority, others: tuple[bytes, ...]) -> None:
    wanted = base64.b64encode(b"".join(others) + authority.bundle).decode()
    if all((w.get("clientConfig") or {}).get("caBundle") == wanted for w in observed.get("webhooks") or []):
        return
    patch = _build_patch(observed, {"caBundle": wanted})
    await api.apply(patch, WEBHOOK_CONFIGURATIONS, FieldManager.CERTIFICATES)
    log.info("webhook caBundle patched", name=observed["metadata"]["name"])


async def _ensure_path(api: ApiServer, observed: Manifest, token: InjectToken) -> None:
    configs = [webhook.get("clientConfig") or {} for webhook in observed.get("webhooks") or []]
    if all((config.get("service") or {}).get("path") == token.path for config in configs):
        return
    patch = _build_patch(observed, {"service": {"path": token.path}})
    await api.apply(patch, WEBHOOK_CONFIGURATIONS, FieldManager.INJECT_PATH)
    log.info("webhook path patched", name=observed["metadata"]["name"])


def _build_patch(observed: Manifest, client_config: Manifest) -> Manifest:
    return {
        "apiVersion": WEBHOOK_CONFIGURATIONS.api_version,
        "kind": WEBHOOK_CONFIGURATIONS.kind,
        "metadata": {"name": observed["metadata"]["name"], "uid": observed["metadata"]["uid"]},
        "webhooks": [{"name": w["name"], "clientConfig": client_config} for w in observed.get("webhooks") or []],
    }


def _certificate(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pem_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), pem_key)


def _is_fresh(certificate: x509.Certificate, now: datetime) -> bool:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now > life / 3


def _parse_authority(secret: Manifest | None) -> Authority | None:
    """The Secret holds `ca-0.crt`, `ca-0.key`, `ca-1.crt`... oldest first. None where it holds no pair that is whole."""
    decoded = _decode(secret)
    pairs = []
    for index in range(len(decoded)):
        pair = Pair(decoded.get(f"ca-{index}.crt", b""), decoded.get(f"ca-{index}.key", b""))
        if is_whole(pair):
            pairs.append(pair)
    return Authority(tuple(pairs)) if pairs else None


def _parse_leaf(secret: Manifest | None) -> Pair | None:
    decoded = _decode(secret)
    if "tls.crt" not in decoded or "tls.key" not in decoded:
        return None
    return Pair(decoded["tls.crt"], decoded["tls.key"])


def _decode(secret: Manifest | None) -> dict[str, bytes]:
    data = (secret or {}).get("data") or {}
    return {name: base64.b64decode(value or "") for name, value in data.items()}


def _render_authority(authority: Authority) -> dict[str, bytes]:
    data: dict[str, bytes] = {}
    for index, pair in enumerate(authority.pairs):
        data[f"ca-{index}.crt"], data[f"ca-{index}.key"] = pair.certificate, pair.key
    return data


def _build_ca_secret(authority: Authority, namespace: str) -> Manifest:
    return _secret(CA_SECRET, "Opaque", namespace, _render_authority(authority))


def _build_serving_secret(
    leaf: Pair, authority: Authority, tokens: tuple[InjectToken, ...], namespace: str
) -> Manifest:
    data = {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": authority.bundle, **render_tokens(tokens)}
    return _secret(SERVING_SECRET, "kubernetes.io/tls", namespace, data)


def _secret(name: str, kind: str, namespace: str, data: dict[str, bytes]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "spillway"}},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
