"""D4RL's dynamics on today's mujoco, one module a family; may import only errors."""
