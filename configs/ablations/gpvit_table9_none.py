# None: nothing propagates among group tokens.
_base_ = '../cls_gpvit_l1_300e.py'

model = dict(backbone=dict(propagation='none'))
