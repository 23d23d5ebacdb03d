"""From what is declared to what runs: observe, diff, plan, execute.

`state` is what the decision looks at, `diff` says what a change of a field means, `plan` decides;
these three are pure and know neither clock nor disk. The rest of the room acts on their decisions
and decides nothing itself.

May import `runtime`, the shared leaves, `manifest` and `errors`. Never speaks gRPC, never imports
torch, never decides while acting.
"""
