"""Keys and certificates of the embedded cluster: one CA, one client certificate per component, the token signing key."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dev.cluster.embedded.addresses import API_PORT, NODE_NAME, Addresses

_VALIDITY: Final = datetime.timedelta(days=365)
_RENEW_BEFORE: Final = datetime.timedelta(days=30)
_NAMES: Final = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


@dataclass(frozen=True)
class Identity:
    """Common name and organisation are the user and the group that the API server sees."""

    name: str
    common_name: str
    organisation: str = ""


APISERVER: Final = Identity("apiserver", "kube-apiserver")
ADMIN: Final = Identity("admin", "spillway-admin", "system:masters")
KUBELET: Final = Identity("kubelet", f"system:node:{NODE_NAME}", "system:nodes")
CONTROLLERS: Final = Identity("controllers", "system:kube-controller-manager")
SCHEDULER: Final = Identity("scheduler", "system:kube-scheduler")
PROXY: Final = Identity("proxy", "system:kube-proxy")
CLIENTS: Final = (ADMIN, KUBELET, CONTROLLERS, SCHEDULER, PROXY)


def ensure(pki: Path, addresses: Addresses) -> None:
    """Make everything below `pki` unless it is there and valid for another month."""
    authority = pki / "ca.crt"
    if authority.exists() and (pki / "complete").exists():
        ends = x509.load_pem_x509_certificate(authority.read_bytes()).not_valid_after_utc
        if ends - datetime.datetime.now(datetime.UTC) > _RENEW_BEFORE:
            return
    pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    (pki / "complete").unlink(missing_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(Identity("ca", "spillway-test-ca"))
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    certificate = _sign(subject, subject, key.public_key(), key, constraints, ())
    _write(pki, "ca", key, certificate)
    ips = ("127.0.0.1", addresses.node_ip, addresses.api_service_ip)
    for identity in (APISERVER, *CLIENTS):
        own = ec.generate_private_key(ec.SECP256R1())
        _write(pki, identity.name, own, _sign(_subject(identity), subject, own.public_key(), key, None, ips))
    _write_key(pki / "service-accounts.key", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    (pki / "complete").touch()


def write_kubeconfig(pki: Path, addresses: Addresses, identity: Identity, target: Path) -> None:
    """Write a kubeconfig that holds everything it needs, readable by its owner only."""

    def embedded(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    server = f"https://{addresses.node_ip}:{API_PORT}"
    user = {
        "client-certificate-data": embedded(f"{identity.name}.crt"),
        "client-key-data": embedded(f"{identity.name}.key"),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "spillway", "cluster": {"server": server, "certificate-authority-data": embedded("ca.crt")}}
        ],
        "users": [{"name": identity.name, "user": user}],
        "contexts": [{"name": "spillway", "context": {"cluster": "spillway", "user": identity.name}}],
        "current-context": "spillway",
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch(mode=0o600)
    target.write_text(yaml.safe_dump(content))


def _subject(identity: Identity) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)]
    if identity.organisation:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.organisation))
    return x509.Name(parts)


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    authority: x509.BasicConstraints | None,
    ips: Sequence[str],
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + _VALIDITY)
    )
    if authority is not None:
        builder = builder.add_extension(authority, critical=True)
    else:
        names = [x509.DNSName(name) for name in (*_NAMES, socket.gethostname())]
        addresses = [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _write(pki: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    _write_key(pki / f"{name}.key", key)
    (pki / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
