# GC ViT-XXT from scratch: the smallest variant, for the demo.
backbone = dict(type='GCViT', arch='xxtiny', drop_path_rate=0.0)
channels = [64, 128, 256, 512]
