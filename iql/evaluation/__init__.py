"""Episodes of a policy: seeds, rollouts, worker processes, and an evaluation that runs beside training.

May import runs, networks, tasks, envs and what lies below them; what runs in a worker process imports no torch.
"""
