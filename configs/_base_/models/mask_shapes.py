# mmdet's Mask R-CNN, half the channels behind the backbone, few boxes: enough for drawn shapes.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

num_classes = 5
width = 128
model = dict(
    neck=dict(out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=512, num_classes=num_classes),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_classes=num_classes),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(
        rpn=dict(max_per_img=100), rcnn=dict(max_per_img=20, nms=dict(iou_threshold=0.3))
    ),
)
