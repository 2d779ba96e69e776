# Appendix B.2: clipping at 5; the released config, and ours, has 1.
_base_ = '../cls_gpvit_l1_300e.py'

optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
