"""The names of the demo's experiment, which the proof takes over: its commitment covers the modules that name this one."""

from __future__ import annotations

EXPERIMENT = "challenger-against-incumbent"
# Which policy each variant runs; the first is the control.
CONTROL, TREATMENT = "incumbent", "challenger"
