"""The engine's side of Spillway, without knowing any engine: attach, look up, wait, load, store.

It runs inside foreign images and processes, so it needs nothing but the core and the standard library, never blocks and
raises nothing but what its functions name. What knows an engine or torch lives in `spillway.adapters`.
"""

from spillway.client.announcements import Change
from spillway.client.gate import Gate
from spillway.client.identity import IdentityUnknown, canonical_digest, weights_digest
from spillway.client.link import Link, RankLink
from spillway.client.records import Group, LoadTokens, StoreOffer, Verdict
from spillway.client.session import Session
from spillway.client.settings import ClientSettings, SettingsError, read_settings

__all__ = [
    "Change",
    "ClientSettings",
    "Gate",
    "Group",
    "IdentityUnknown",
    "Link",
    "LoadTokens",
    "RankLink",
    "Session",
    "SettingsError",
    "StoreOffer",
    "Verdict",
    "canonical_digest",
    "read_settings",
    "weights_digest",
]
