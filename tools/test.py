r"""Evaluate a checkpoint or an exported file: COCO AP, ADE20K mIoU, ImageNet accuracy.

Examples:
    python tools/test.py configs/mask_gcvit_t_1x.py work_dirs/mask_gcvit_t_1x/epoch_12.pth
    python tools/test.py configs/mask_gcvit_t_1x.py mask.onnx  # of tools/export_onnx.py
    tools/dist_test.sh configs/upernet_gcvit_t_160k.py CHECKPOINT 8 --tta
    python tools/test.py configs/mask_gcvit_t_1x.py CHECKPOINT --submit results.json --cfg-options \
        test_dataloader.dataset.ann_file=annotations/image_info_test-dev2017.json \
        test_dataloader.dataset.data_prefix.img=test2017/
"""

import argparse
import contextlib
import os.path as osp
from typing import Any, List, Optional

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults

from gcvit_mm import UserError, cli
from gcvit_mm.checkpoints import load_model


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_run_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint, or FILE.onnx')
    cli.add_engine_argument(parser)
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions into this folder')
    parser.add_argument('--out', metavar='FILE.pkl', help='save the predictions')
    parser.add_argument(
        '--submit',
        metavar='FILE',
        help='compute no metric, but write results for a test server: .json (COCO), .zip (ADE20K)',
    )
    parser.add_argument('--amp', action='store_true', help='compute in bfloat16')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--allow-partial', action='store_true', help='accept a checkpoint that fits in part'
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also read checkpoints that hold Python objects (they can run any code)',
    )
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error('--out needs a name that ends in .pkl')
    if args.submit and not args.submit.endswith(('.json', '.zip')):
        parser.error('--submit needs a name that ends in .json (COCO) or .zip (ADE20K)')
    return args


def draw_into(cfg: Config, folder: str) -> None:
    """Let the visualization hook of the config draw every prediction into a folder."""
    folder = osp.abspath(folder)  # the hooks put a relative one below the work dir
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UserError('--show-dir: this config has no default_hooks.visualization')
    if cfg.default_scope == 'mmdet':
        hook.update(draw=True, test_out_dir=folder)
    elif cfg.default_scope == 'mmseg':
        hook.update(draw=True, interval=1)
    else:
        hook.update(enable=True, interval=1, out_dir=folder)


def check_drawn(dataset: Any, folder: str) -> None:
    """Check that no image of a data set lies in the folder that predictions are drawn into.

    Raises:
        UserError: If one does: it would be drawn over.
    """
    where = osp.realpath(folder)
    for i in range(len(dataset)) if hasattr(dataset, 'get_data_info') else ():
        path = str(dataset.get_data_info(i).get('img_path'))
        if osp.realpath(osp.dirname(path)) == where:
            raise UserError(f'--show-dir {folder} is where {path} lies: name another folder')


def draw_whole(visualizer: Any, folder: str) -> None:
    """Let drawn images be written whole or end the test, and all of them into the folder.

    mmseg's hook names no file, and its backend says nothing of one that was not written;
    mmpretrain's visualizer expects RGB, but its own hook has BGR. Only the first process draws.
    """
    if not is_main_process():
        return
    if hasattr(visualizer, 'visualize_cls'):
        draw_class = visualizer.visualize_cls

        def visualize_cls(image: Any, *args: Any, out_file: str, **options: Any) -> None:
            with cli.whole_output(out_file) as partial:
                draw_class(image[..., ::-1], *args, out_file=partial, **options)

        visualizer.visualize_cls = visualize_cls
        return
    draw = visualizer.add_datasample

    def add_datasample(name: str, *args: Any, **options: Any) -> None:
        path = options.pop('out_file', None) or osp.join(folder, f'{osp.splitext(name)[0]}.png')
        with cli.whole_output(path) as partial:
            draw(name, *args, out_file=partial, **options)

    visualizer.add_datasample = add_datasample


def augment(cfg: Config) -> None:
    """Test on augmented images and average, as ``tta_model`` and ``tta_pipeline`` say."""
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise UserError(f'--tta: this config has no {key}')
    masks = (cfg.model.get('roi_head') or {}).get('mask_head')
    if masks and cfg.tta_model.get('type') == 'DetTTAModel':
        raise UserError(
            '--tta: DetTTAModel merges boxes only, not masks: leave it out, or set tta_model.type='
            'gcvit_mm.engine.tta.MaskTTAModel'
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def main(argv: Optional[List[str]] = None) -> None:
    """Evaluate."""
    args = parse_args(argv)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.prepare(cfg, args)
    cli.check_file(args.checkpoint, 'checkpoint')
    cli.check_engine(args.engine, args.checkpoint)
    if args.out:
        cli.check_output(args.out, [args.config, args.checkpoint])
    if cli.is_exported(args.checkpoint):
        cli.evaluate_exported(cfg, args)
    if args.fast_eval:
        cli.evaluate_fast(cfg)
    if args.submit:
        cli.submit(cfg, args.submit, [args.config, args.checkpoint])
    cli.preflight(cfg, 'test_dataloader')
    if args.check:
        print(cli.rehearse(cfg))
        return
    if args.show_dir:
        draw_into(cfg, args.show_dir)
    if args.tta:
        augment(cfg)
    for key in ('runner_type', 'strategy'):  # they divide a model for its training
        cfg.pop(key, None)
    with cli.submission(args.submit) if args.submit else contextlib.nullcontext():
        test(cfg, args)


def test(cfg: Config, args: argparse.Namespace) -> None:
    """Build what the config describes and test it."""
    runner = cli.build_runner(cfg)
    if args.show_dir:
        cli.make_folder(args.show_dir, '--show-dir ')
        draw_whole(runner.visualizer, args.show_dir)
        check_drawn(runner.test_dataloader.dataset, args.show_dir)
    if args.out:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    if cli.is_exported(args.checkpoint):
        cli.check_exported(runner, args.checkpoint)
    else:
        load_model(runner.model, args.checkpoint, args.allow_partial, args.trust_checkpoint)
        if args.amp:
            cli.predict_in_bfloat16(runner.model, next(runner.model.parameters()).device.type)
    runner.test()
    if not args.submit:
        model = () if cli.is_exported(args.checkpoint) else (args.config,)
        cli.say_next(runner, *model, args.checkpoint)


if __name__ == '__main__':
    cli.run_tool(main)
