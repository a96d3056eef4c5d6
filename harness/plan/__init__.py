"""What a run would ask, hold and cost, told before it spends anything: `plan_of` in `harness.plan.plan`."""
