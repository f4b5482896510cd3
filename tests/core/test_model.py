import pytest
import torch
from torch import nn

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, TokenSpec, image_spec
from fedspill.core.model import BATCH_NORMS, Model
from fedspill.core.rng import randn, stream


def test_eval_mode_treats_every_example_by_itself_and_leaves_the_model_alone():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 2))
    model = Model.of(module, ImageSpec((1, 5, 5)), training=True)
    z = randn((3, 1, 5, 5), stream(0), model.like)
    calm = model.in_eval_mode()
    together = calm.logits(calm.params, z)
    apart = torch.cat([calm.logits(calm.params, one[None]) for one in z])
    torch.testing.assert_close(together, apart)
    assert model.training
    assert all(m.training for m in model.module.modules())


@pytest.mark.parametrize("layer", BATCH_NORMS)
def test_batch_norms_write_statistics_in_train_mode(layer):
    norm = layer(2)
    assert {"running_mean", "running_var"} <= {name for name, _ in norm.named_buffers()}


def test_image_spec_is_handed_on_and_others_are_refused():
    spec = ImageSpec((1, 2, 2))
    assert image_spec(spec) is spec
    with pytest.raises(NotApplicable, match="pictures are needed, the model takes TokenSpec"):
        image_spec(TokenSpec(3, 5))
    with pytest.raises(BadInput, match="pictures are needed, model 'mlp' takes TokenSpec"):
        image_spec(TokenSpec(3, 5), "model 'mlp'", BadInput)
