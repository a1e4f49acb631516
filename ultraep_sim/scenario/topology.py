"""The fabric of a scenario: a preset of wiring, and what of it is written otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ultraep_sim.scenario.strict import Strict

if TYPE_CHECKING:
    from ultraep_sim.fabric.topology import Topology
    from ultraep_sim.fabric.wiring import Wiring
    from ultraep_sim.model.profiles import RackProfile
    from ultraep_sim.scenario.schema import Scenario

Preset = Literal["nvl8-hosts", "nvl72", "paper-rack", "paper-40-racks"]
Striping = Literal["equal", "adaptive", "fixed"]

#: Keys of the spec that replace a number of the wiring of the same name.
_REPLACED = (
    "domains_per_rack",
    "gpus_per_host",
    "planes",
    "leaves_per_rack",
    "spines",
    "oversubscription",
    "host_GBps",
    "pcie_GBps",
    "scale_up_latency_us",
    "scale_out_latency_us",
    "spine_latency_us",
)


class TopologySpec(Strict):
    """How GPUs, switch planes, hosts, NICs, leaves and spines are wired.

    Bandwidths of the scale-up links and of the NICs are the rack's. None takes the preset's
    number; without a preset, that of the wiring that goes with the rack.

    Attributes
    ----------
    preset : {"nvl8-hosts", "nvl72", "paper-rack", "paper-40-racks"} or None
    domains : int or None
        Scale-up domains of the whole fabric; None takes the preset's, else as many as the
        expert-parallel groups need.
    domains_per_rack, gpus_per_host, planes : int or None
        Domains in a rack, GPUs in a host, switch planes of a domain.
    leaves_per_rack, spines : int or None
        Leaf switches of a rack (NICs take them in turn), and spine switches over all leaves.
    oversubscription : float or None
        NIC bandwidth under a leaf over its bandwidth to the spines.
    host_GBps, pcie_GBps : float or None
        Links GPU to host and host to NIC, one direction.
    scale_up_latency_us : float or None
        One way from GPU to GPU through a plane.
    scale_out_latency_us, spine_latency_us : float or None
        One way from GPU to GPU through a leaf, and what a spine adds.
    striping : {"equal", "adaptive", "fixed"}
        How a transfer spreads over parallel planes and spines: the same share on each that is
        alive, shares in proportion to what is left of each, or the same share on each whether it
        lives or not (a transfer then waits for a dead one).
    """

    preset: Preset | None = None
    domains: int | None = Field(default=None, ge=1, le=8192)
    domains_per_rack: int | None = Field(default=None, ge=1, le=64)
    gpus_per_host: int | None = Field(default=None, ge=1, le=1024)
    planes: int | None = Field(default=None, ge=1, le=72)
    leaves_per_rack: int | None = Field(default=None, ge=1, le=72)
    spines: int | None = Field(default=None, ge=1, le=256)
    oversubscription: float | None = Field(default=None, ge=1.0, le=64.0)
    host_GBps: float | None = Field(default=None, gt=0.0, le=1e5)  # noqa: N815  # unit in the name
    pcie_GBps: float | None = Field(default=None, gt=0.0, le=1e5)  # noqa: N815  # unit in the name
    scale_up_latency_us: float | None = Field(default=None, ge=0.0, le=1e4)
    scale_out_latency_us: float | None = Field(default=None, ge=0.0, le=1e4)
    spine_latency_us: float | None = Field(default=None, ge=0.0, le=1e4)
    striping: Striping = "equal"

    def wiring(self, rack: RackProfile) -> Wiring:
        """Return the wiring with the numbers given here replaced.

        Raises
        ------
        ProfileError
            The preset is for scale-up domains of another size than the rack's.
        """
        from ultraep_sim.fabric.wiring import wiring_of

        changes = {name: getattr(self, name) for name in _REPLACED}
        return wiring_of(rack, self.preset).with_overrides(
            {name: value for name, value in changes.items() if value is not None}
        )

    def build(
        self, rack: RackProfile, *, groups: int, ranks: int, domain_size: int | None = None
    ) -> Topology:
        """Build the fabric.

        Parameters
        ----------
        rack : RackProfile
            Its GPUs, their number in a domain, links and NICs.
        groups, ranks : int
            Expert-parallel groups and ranks of each: without ``domains``, they say how many
            domains there are.
        domain_size : int, optional
            GPUs of a domain where they differ from the rack's. Smaller domains share a rack, as
            many as whole ones of its size hold, unless ``domains_per_rack`` is given. A rack with
            fewer NICs than the wiring has leaves gets a leaf for each, unless told otherwise.

        Raises
        ------
        ProfileError
            The preset does not go with the rack, or the numbers make no fabric.
        """
        from ultraep_sim.fabric.groups import domains_needed
        from ultraep_sim.fabric.topology import build_topology

        wiring = self.wiring(rack)
        size = rack.domain_size if domain_size is None else domain_size
        if size < rack.domain_size and self.domains_per_rack is None:
            together = wiring.domains_per_rack.value * (rack.domain_size // size)
            wiring = wiring.with_overrides({"domains_per_rack": together})
        domains = self.domains or wiring.domains or domains_needed(groups, ranks, size)
        nics = min(round(wiring.domains_per_rack.value), domains) * size
        if self.leaves_per_rack is None and wiring.leaves_per_rack.value > nics:
            wiring = wiring.with_overrides({"leaves_per_rack": nics})
        return build_topology(rack, wiring, domains, domain_size=size, striping=self.striping)


def topology_of(scenario: Scenario) -> Topology:
    """Build the fabric of a scenario, large enough for its groups where it does not say how large.

    ``ep.domain_size`` says how large scale-up domains are; None leaves the rack's (a group of 64
    ranks in a domain of 72 GPUs).
    """
    ep, spec = scenario.ep, scenario.topology or TopologySpec()
    return spec.build(
        scenario.rack,
        groups=ep.pipeline_stages * ep.data_parallel,
        ranks=ep.ranks,
        domain_size=ep.domain_size,
    )
