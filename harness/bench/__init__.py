"""Measuring an engine: load programs that keep no transcript, and the run that starts them.

    client (process) ── TLS ──> engine (process) ── agent link ──> agent with the upstream inside (process)
    client (process) ── TLS ──> upstream (process)                                    what is called *direct*
    client (process) ── TLS ──> bare relay (process) ── TLS ──> upstream (process)    what is called *bare*

`blocks` is what the load says, `streams` the blocking TLS below it, `upstream`, `agent` and `client` are the ends,
`load` the programs (`python -m harness.bench.load ROLE`). `benchmarks` is the list of what is measured, `ground` starts
the programs and `run` samples them, `suite` has the cases' own durations, `table` says what came out.
"""
