# Appendix B.4: 6e-5, for the 16 images a step of Swin; the released configs have twice of both.
_base_ = '../segformer_gpvit_l1_160k.py'

optim_wrapper = dict(optimizer=dict(lr=6e-5))
auto_scale_lr = dict(base_batch_size=16)
