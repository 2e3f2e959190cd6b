"""Training jobs: propensity and reward models, reinforcement learning; each a process of its own."""
