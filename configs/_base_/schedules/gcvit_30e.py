# Fine-tuning at a larger size: that of Swin's paper (appendix), 30 epochs, 1e-5 throughout for 1024
# images a step, decay 1e-8. The authors describe none. Their config of 384 has 1e-3, the rate of a
# training from scratch, and names a model that their code does not know.
_base_ = './adamw_300e.py'

train_cfg = dict(max_epochs=30)
param_scheduler = [dict(type='ConstantLR', factor=1.0, begin=0, end=30)]
optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8))
