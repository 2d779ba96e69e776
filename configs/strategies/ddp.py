# Distributed data parallel, as a strategy like the others beside it.
runner_type = 'FlexibleRunner'
strategy = dict(type='DDPStrategy')
