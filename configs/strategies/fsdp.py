# Fully sharded data parallel: every GPU keeps a part of weights, gradients and optimizer states.
# One unit a block; checkpoints are whole, as a run without it writes them.
runner_type = 'FlexibleRunner'
strategy = dict(type='gcvit_mm.engine.strategies.FullyShardedStrategy')
