"""Clusters that stand side by side share nothing by which one could be taken for the other."""

from __future__ import annotations

import ipaddress
from itertools import combinations

import pytest

from dev.cluster import instance
from dev.cluster.commands import ClusterError
from dev.cluster.embedded import cgroups
from dev.cluster.embedded.addresses import Addresses
from dev.cluster.instance import Instance


@pytest.mark.parametrize(("one", "other"), list(combinations(instance.ALL, 2)))
def test_no_two_meet(one: Instance, other: Instance) -> None:
    assert one.folder not in (other.folder, *other.folder.parents)
    assert other.folder not in one.folder.parents
    assert cgroups.root(one) != cgroups.root(other)
    mine, theirs = Addresses(one), Addresses(other)
    assert mine.host_link != theirs.host_link
    for network in (mine.pod_network, mine.service_network, f"{mine.node_ip}/32", f"{mine.host_ip}/32"):
        for foreign in (theirs.pod_network, theirs.service_network, f"{theirs.node_ip}/30"):
            assert not ipaddress.ip_network(network).overlaps(ipaddress.ip_network(foreign, strict=False))


@pytest.mark.parametrize("one", instance.ALL)
def test_each_is_sound(one: Instance) -> None:
    addresses = Addresses(one)
    assert len(addresses.host_link) <= 15, "the kernel takes no longer name for a link"
    for inside, network in (
        (addresses.api_service_ip, addresses.service_network),
        (addresses.dns_service_ip, addresses.service_network),
    ):
        assert ipaddress.ip_address(inside) in ipaddress.ip_network(network)
    assert ipaddress.ip_network(addresses.node_pod_network).subnet_of(ipaddress.ip_network(addresses.pod_network))


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ClusterError, match="demo, e2e"):
        instance.find("prod")
