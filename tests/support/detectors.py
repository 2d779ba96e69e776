"""Small detectors of shipped configs, and two steps of training them."""

from copy import deepcopy

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from gcvit_mm import GPViT
from support.running import ROOT

CONFIGS = ROOT / 'configs'
XXT = dict(init_cfg=None, arch='xxtiny', drop_path_rate=0.0)
CLASSES = dict(num_classes=5)
# a layer for each of the adapter's exchanges, two of them with groups
L1 = dict(GPViT.arch_zoo['L1'], depth=4, groups={1: 64, 3: 16})
# One stage, layer and image size: the code that runs is the same.
SMALL = {
    'mask_gcvit_xxt_shapes': dict(
        backbone=dict(drop_path_rate=0.0), test_cfg=dict(rpn=dict(max_per_img=10))
    ),
    'cascade_gcvit_t_3x': dict(
        backbone=XXT,
        neck=dict(in_channels=[64, 128, 256, 512]),
        train_cfg=dict(
            rpn_proposal=dict(nms_pre=100, max_per_img=50),
            rcnn=[
                dict(
                    assigner=dict(
                        type='MaxIoUAssigner', pos_iou_thr=t, neg_iou_thr=t, min_pos_iou=t
                    ),
                    sampler=dict(type='RandomSampler', num=16, pos_fraction=0.25),
                    mask_size=28,
                    pos_weight=-1,
                )
                for t in (0.5, 0.6, 0.7)
            ],
        ),
        test_cfg=dict(rpn=dict(max_per_img=10)),
    ),
    'retinanet_gpvit_l1_1x': dict(backbone=dict(init_cfg=None, drop_path_rate=0.0)),
    'dino_gcvit_t_1x': dict(
        backbone=XXT,
        neck=dict(in_channels=[128, 256, 512]),
        num_queries=20,
        encoder=dict(num_layers=1),
        decoder=dict(num_layers=1),
        dn_cfg=dict(group_cfg=dict(num_dn_queries=10)),
    ),
}


def narrow(part):
    """Give necks and heads of 256 channels, and their layers of 1024, fewer."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if key.endswith('_channels') and value in (256, 1024):
            part[key] = value // 8
        for child in value if isinstance(value, list) else [value]:
            narrow(child)


def detector(name, **changes):
    """A small model of a config, the same at every call; changes are those of its ``model``."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.merge_from_dict(dict(model=SMALL.get(name, {})))
    if cfg.model.backbone.type == 'GPViTAdapter':
        cfg.model.backbone.arch = L1
    cfg.merge_from_dict(dict(model=deepcopy(changes)))
    for part in ('neck', 'rpn_head', 'roi_head', 'bbox_head'):
        if cfg.model.type != 'DINO' and part in cfg.model:
            narrow(cfg.model[part])
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    return model.train()


# Layers that end heads, and how far from each other what they give is to be.
SPREAD = dict(
    rpn_cls=1.5,
    rpn_reg=0.3,
    fc_cls=1.5,
    fc_reg=0.5,
    retina_cls=1.5,
    retina_reg=0.3,
    conv_logits=1.5,
)


def decided(model):
    """Let a new detector give scores and boxes that differ, as one does that was trained."""
    heads = [part for name, part in model.named_children() if name.endswith(('head', 'neck'))]
    torch.manual_seed(1)
    for part in [m for head in heads for m in head.modules()]:
        if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear, torch.nn.ConvTranspose2d)):
            torch.nn.init.kaiming_normal_(part.weight)
    for name, part in model.named_modules():
        if name.endswith(('sampling_offsets', 'attention_weights')):
            torch.nn.init.normal_(part.weight, std=0.05)
        if name.endswith('retina_cls'):
            torch.nn.init.constant_(part.bias, -4)

    hooks = {}

    def spread(module, inputs, output):
        hook, wanted = hooks.pop(module)
        hook.remove()  # levels share a head: the first decides
        bias = module.bias.view(-1, *[1] * (output.dim() - 2))
        factor = wanted / (output - bias).std()
        module.weight.data *= factor
        return (output - bias) * factor + bias

    for name, part in model.named_modules():
        wanted = SPREAD.get(name.split('.')[-1])
        if wanted:
            hooks[part] = part.register_forward_hook(spread), wanted
    model.eval()
    if hooks:
        predict(model, torch.randint(0, 256, (1, 3, 128, 128)))
    return model


def predict(model, pictures):
    """What mmdet predicts for pictures (B, 3, H, W), from their bytes on; in their pixels."""
    from mmdet.structures import DetDataSample

    size = tuple(pictures.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    samples = [DetDataSample(metainfo=dict(meta)) for _ in pictures]
    with torch.no_grad():
        results = model.test_step(dict(inputs=list(pictures), data_samples=samples))
    return [result.pred_instances for result in results]


def images():
    """Two images with boxes and masks."""
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(2, [[3, 96, 128]] * 2, num_items=[3, 2], num_classes=5, with_mask=True)


def train(name, wrap, device='cpu'):
    """Losses of two steps, all of them; weights and gradients are finite after them."""
    model = detector(name).to(device)
    wrapper = wrap(torch.optim.SGD(model.parameters(), 1e-4))
    losses = []
    for step in range(2):
        torch.manual_seed(step)
        log = model.train_step(images(), wrapper)
        losses.append({key: float(value) for key, value in log.items() if 'loss' in key})
    for key, p in model.named_parameters():
        assert p.isfinite().all(), key
        assert p.grad is None or p.grad.isfinite().all(), key
    return losses
