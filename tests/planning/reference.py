"""The probe sequence of `ultraep_sim.planning.quota` again, slow and plain, in Python integers."""


def reference_solve(loads, layout, options):
    """Return (tau, [(expert, rank, quota), ...]) as the module's docstring defines them."""
    rank_load = [0] * layout.num_ranks
    for expert, home in enumerate(layout.home.tolist()):
        rank_load[home] += int(loads[expert])
    first, mean = 0, 0
    for begin in range(0, layout.num_ranks, layout.domain):
        part = rank_load[begin : begin + layout.domain]
        first = max(first, -(-sum(part) * options.target_scaled // (len(part) * 10_000)))
        mean = max(mean, sum(part) // len(part))
    high = max(rank_load)
    if layout.slots_per_rank == 0 or high <= first:
        return (high if high > first else first), []

    def oracle(tau, dynamic=False, floor=0):
        return greedy(loads, layout, rank_load, tau, dynamic, floor)

    attempts = (oracle(first, True, options.min_quota), oracle(first, True), oracle(first))
    for plan in attempts:
        if plan is not None:
            return first, plan
    low = first
    while high - low > max(1, mean // 1024):
        width, below = high - low, low
        for j in range(1, 8):
            tau = low + width * j // 8
            if tau == below:
                continue
            if oracle(tau) is not None:
                high = tau
                break
            below = tau
        low = below
    if options.min_quota:
        plan = oracle(high, False, options.min_quota)
        if plan is not None:
            return high, plan
    return high, oracle(high)


def greedy(loads, layout, rank_load, tau, dynamic, min_quota):
    slack = [tau - load for load in rank_load]
    free = [layout.slots_per_rank] * layout.num_ranks
    replicas = []
    hot = [r for r in range(layout.num_ranks) if rank_load[r] > tau]
    for rank in sorted(hot, key=lambda r: (-rank_load[r], r)):
        excess = rank_load[rank] - tau
        mains = [e for e in range(layout.num_experts) if layout.home[e] == rank]
        begin = rank // layout.domain * layout.domain
        domain = range(begin, min(begin + layout.domain, layout.num_ranks))
        for expert in sorted(mains, key=lambda e: (-loads[e], e)):
            left = int(loads[expert]) - 1
            hosts = set()
            while excess > 0 and left > 0:
                able = [r for r in domain if slack[r] > 0 and free[r] > 0 and r not in hosts]
                if not able:
                    break
                best = max(able, key=lambda r: (slack[r], -r))
                quota = min(excess, slack[best], left)
                floor = max(min_quota, -(-excess // len(able))) if dynamic else min_quota
                if quota < floor:
                    break
                replicas.append((expert, best, quota))
                hosts.add(best)
                slack[best] -= quota
                free[best] -= 1
                left -= quota
                excess -= quota
        if excess > 0:
            return None
    return replicas
