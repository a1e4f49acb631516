"""How GPUs, switch planes, hosts and NICs are wired: the numbers a rack profile does not hold."""
# ruff: noqa: N815  # units stand in the names (GBps), capitals and all

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ultraep_sim.errors import ProfileError
from ultraep_sim.model.profiles import RackProfile
from ultraep_sim.model.provenance import Quantity, assumed, datasheet, published


@dataclass(frozen=True)
class Wiring:
    """Counts, bandwidths and latencies of a fabric beside those of its rack profile.

    Parameters
    ----------
    name : str
    gpus_per_host, planes : Quantity
        GPUs of a host; switch planes of a scale-up domain, with one link a GPU to each.
    domains_per_rack, leaves_per_rack, spines : Quantity
        Domains and leaf switches of a rack; spine switches over all leaves.
    oversubscription : Quantity
        NIC bandwidth under a leaf over the leaf's bandwidth to the spines.
    host_GBps, pcie_GBps : Quantity
        Links GPU to host and host to NIC, one GPU and direction.
    scale_up_latency_us, scale_out_latency_us, spine_latency_us : Quantity
        One way from GPU to GPU through a plane; through a leaf; what a spine adds to that.
    domain_size : int or None
        Size of the domains this wiring is of; None fits any.
    domains : int or None
        Domains of the whole fabric; None: as many as a run needs.
    """

    name: str
    gpus_per_host: Quantity
    planes: Quantity
    domains_per_rack: Quantity
    leaves_per_rack: Quantity
    spines: Quantity
    oversubscription: Quantity
    host_GBps: Quantity
    pcie_GBps: Quantity
    scale_up_latency_us: Quantity
    scale_out_latency_us: Quantity
    spine_latency_us: Quantity
    domain_size: int | None = None
    domains: int | None = None

    def with_overrides(self, changes: Mapping[str, float]) -> Wiring:
        """Return the wiring with numbers replaced, each marked as the user's assumption.

        Raises
        ------
        ProfileError
            No such number, or an impossible value.
        """
        new = {}
        for name, value in changes.items():
            old = getattr(self, name, None)
            if not isinstance(old, Quantity):
                raise ProfileError(
                    "no such number in this wiring", place=self.name, value=name, remedy=_NUMBERS
                )
            new[name] = old.overridden(value)
        return replace(self, **new)  # type: ignore[arg-type]  # all are Quantity, checked above


_NUMBERS = "one of gpus_per_host, planes, domains_per_rack, leaves_per_rack, spines, ..."

_UP = published(0.85, "us", "half of a remote load's 1.7 us round trip over an NVSwitch")
_OUT = published(1.9, "us", "RDMA write between hosts under one leaf")
_SPINE = published(2.1, "us", "RDMA write across racks takes 3-5 us, less the 1.9 us", 1.1, 3.1)
_FULL = assumed(1, "1", "a full-bisection training fabric; clusters save up to 4:1", 1, 4)
_PCIE5 = datasheet(63, "GB/s", "PCIe Gen5 x16, one direction")
_PCIE6 = datasheet(121, "GB/s", "PCIe Gen6 x16 (ConnectX-8), one direction")
_C2C = datasheet(225, "GB/s", "NVLink-C2C of a Grace CPU, 450 GB/s one direction for two GPUs")
_RAILS = assumed(4, "1", "one leaf for each of the four NICs of a tray", 1, 18)
_SPINES = assumed(8, "1", "no source: with full bisection their number sets no time", 1, 64)


def _hgx(name: str, planes: Quantity) -> Wiring:
    return Wiring(
        name=name,
        gpus_per_host=datasheet(8, "1", "NVIDIA HGX, 8 GPUs"),
        planes=planes,
        domains_per_rack=assumed(4, "1", "40 kW a rack, 10 kW a host", 1, 8),
        leaves_per_rack=assumed(2, "1", "16 NICs of a rack on each of two leaves", 1, 8),
        spines=_SPINES,
        oversubscription=_FULL,
        host_GBps=_PCIE5,
        pcie_GBps=_PCIE5,
        scale_up_latency_us=_UP,
        scale_out_latency_us=_OUT,
        spine_latency_us=_SPINE,
        domain_size=8,
    )


def _nvl72(name: str, pcie: Quantity) -> Wiring:
    return Wiring(
        name=name,
        gpus_per_host=datasheet(4, "1", "NVL72: 18 compute trays of 4 GPUs"),
        planes=datasheet(18, "1", "NVL72: 9 switch trays of 2 NVSwitch chips, a link to each"),
        domains_per_rack=datasheet(1, "1", "an NVL72 is a rack"),
        leaves_per_rack=_RAILS,
        spines=_SPINES,
        oversubscription=_FULL,
        host_GBps=_C2C,
        pcie_GBps=pcie,
        scale_up_latency_us=_UP,
        scale_out_latency_us=_OUT,
        spine_latency_us=_SPINE,
        domain_size=72,
    )


_NVSWITCH3 = datasheet(4, "1", "HGX H100: 4 NVSwitch chips (5, 4, 4, 5 links; equal here)")
_PAPER = "arXiv 2606.04101 does not tell; its 900 GB/s are NVLink 5"
_PAPER_RACK = replace(
    _nvl72("paper-rack", _PCIE6),
    gpus_per_host=published(4, "1", "arXiv 2606.04101: 64 GPUs in 16 servers"),
    planes=assumed(18, "1", f"{_PAPER}: 18 links a GPU", 4, 36),
    domains_per_rack=published(1, "1", "arXiv 2606.04101: a rack-scale node"),
    host_GBps=assumed(225, "GB/s", f"as NVL72: {_C2C.source}", 63, 450),
    pcie_GBps=assumed(121, "GB/s", "PCIe Gen6 x16, as its NIC rate asks for", 100, 126),
    domain_size=64,
)

#: Presets a scenario may name.
WIRINGS: dict[str, Wiring] = {
    "nvl8-hosts": _hgx("nvl8-hosts", _NVSWITCH3),
    "nvl72": _nvl72("nvl72", _PCIE5),
    "paper-rack": _PAPER_RACK,
    "paper-40-racks": replace(_PAPER_RACK, name="paper-40-racks", domains=40),
}

#: What goes with each rack profile where the scenario names no preset.
_OF_RACK: dict[str, Wiring] = {
    "h100-nvl8": _hgx("h100-nvl8", _NVSWITCH3),
    "h200-nvl8": _hgx("h200-nvl8", _NVSWITCH3),
    "b200-nvl8": _hgx("b200-nvl8", datasheet(2, "1", "HGX B200: 2 NVSwitch chips")),
    "gb200-nvl72": _nvl72("gb200-nvl72", _PCIE5),
    "gb300-nvl72": _nvl72("gb300-nvl72", _PCIE6),
    "paper-rack64": _PAPER_RACK,
}


def wiring_of(rack: RackProfile, preset: str | None = None) -> Wiring:
    """Return a preset, or the wiring that goes with a rack.

    The host's links are never narrower than the NIC of the rack: where a preset's are (a scenario
    has doubled the NIC), they become as wide, as an assumption.

    Parameters
    ----------
    rack : RackProfile
        A preset, changed or not, or one of the user's.
    preset : str, optional
        One of `WIRINGS`.

    Raises
    ------
    ProfileError
        An unknown preset, or one that is of domains of another size than the rack's.
    """
    if preset is None:
        wiring = _OF_RACK.get(rack.name.removesuffix(" (changed)")) or _by_size(rack)
    elif preset in WIRINGS:
        wiring = WIRINGS[preset]
        if wiring.domain_size != rack.domain_size:
            raise ProfileError(
                f"this wiring is of domains of {wiring.domain_size} GPUs, those of the rack "
                f"{rack.name} have {rack.domain_size}",
                place="topology.preset",
                value=preset,
                remedy="choose a rack of that size, or leave the preset out",
            )
    else:
        raise ProfileError(
            "unknown wiring",
            place="topology.preset",
            value=preset,
            remedy=f"one of {', '.join(WIRINGS)}",
        )
    return _wide_enough(wiring, rack)


def _by_size(rack: RackProfile) -> Wiring:
    base = WIRINGS["nvl8-hosts" if rack.domain_size <= 8 else "nvl72"]
    return replace(base, name=rack.name)


def _wide_enough(wiring: Wiring, rack: RackProfile) -> Wiring:
    nic = rack.scale_out_Gbps.si / 1e9
    why = "as wide as the NIC of the rack"
    changes = {
        name: assumed(nic, "GB/s", why, nic, 2 * nic)
        for name in ("host_GBps", "pcie_GBps")
        if getattr(wiring, name).value < nic
    }
    return replace(wiring, **changes)  # type: ignore[arg-type]  # the two names are Quantity
