"""torchvision's ResNets with a sixteenth of the channels after the first layer, whose files are small."""

from functools import partial

import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class ThinResNet(ResNet):
    """A ResNet with torchvision's names and first layer."""

    def __init__(self, block, layers, weights=None, num_classes=1000):
        super().__init__(block, layers)
        self.fc = nn.Linear(32 * block.expansion, num_classes)

    def _make_layer(self, block, planes, *args, **kwargs):
        return super()._make_layer(block, planes // 16, *args, **kwargs)


def thin_resnets(monkeypatch) -> None:
    """From now on to the end of the test, torchvision's ResNet-18 and ResNet-50 are thin."""
    for name, block, layers in (("resnet18", BasicBlock, [2, 2, 2, 2]), ("resnet50", Bottleneck, [3, 4, 6, 3])):
        monkeypatch.setattr(torchvision.models, name, partial(ThinResNet, block, layers))
