"""Sizes, steps, qualities and starting images of a run."""

import pytest
import torch

import nst_helpers as nst
from nst_helpers.images import resize
from nst_helpers.schedule import QUALITIES, coarse_to_fine


class TestSizesAndSteps:
    @pytest.mark.parametrize(
        ("shape", "sizes"),
        [
            ((512, 512), (128, 256, 512)),
            ((256, 200), (128, 256)),
            ((100, 150), (150,)),
            ((1000, 700), (125, 250, 500, 1000)),
            ((64, 1024), (256, 512, 1024)),
        ],
    )
    def test_coarse_to_fine(self, shape, sizes):
        assert coarse_to_fine(*shape) == sizes

    def test_a_number_of_steps_is_for_the_last_size(self, make_run):
        assert make_run(sizes=(24, 32, 48), steps=100).settings.steps == (40, 40, 100)
        assert make_run(sizes=(48,), steps=100).settings.steps == (100,)
        assert make_run(sizes=(24, 48), steps=(7, 0)).settings.steps == (7, 0)

    def test_sizes_follow_one_another(self, make_run):
        run = make_run(sizes=(24, 32, 48), steps=(2, 0, 3))
        records = list(run)
        assert [record.size for record in records] == [24, 24, 48, 48, 48]
        assert [tuple(record.image.shape[2:]) for record in records[1:3]] == [(18, 24), (36, 48)]
        assert run.done
        assert run.best_loss == min(record.total for record in records[2:])

    def test_the_coarse_painting_is_painted_on(self, make_run):
        """The next size starts from what the one before has painted, not from the photograph."""
        run = make_run(sizes=(24, 48), steps=(6, 1), start="noise")
        records = list(run)
        coarse = min(records[:6], key=lambda record: record.total).image
        enlarged = torch.nn.functional.interpolate(coarse, (36, 48), mode="bicubic")
        assert (records[6].image - enlarged).abs().mean() < 0.02

    @pytest.mark.parametrize("sizes", [(), (48, 24), (24, 24)])
    def test_bad_sizes(self, make_run, sizes):
        with pytest.raises(ValueError, match="ascending"):
            make_run(sizes=sizes)

    @pytest.mark.parametrize("steps", [0, -3, (1, 2), (0,)])
    def test_bad_steps(self, make_run, steps):
        with pytest.raises(ValueError, match="steps: expected a number above 0, or one for each"):
            make_run(steps=steps)

    def test_too_small_is_said_before_the_first_step(self, make_run):
        with pytest.raises(ValueError, match=r"content_image: expected sides of at least .*got 20×15 px"):
            make_run(sizes=(20, 48))

    def test_enlarging_is_said_before_the_first_step(self, make_run):
        with pytest.warns(UserWarning, match="enlarged") as warned:
            make_run(sizes=(48, 80))
        said = sorted(str(warning.message) for warning in warned)
        assert said == [
            "content_image: enlarged from 64×48 to 80×60 px",
            "style_image: enlarged from 60×64 to 75×80 px",
        ]


class TestStart:
    def test_content(self, make_run):
        run = make_run()
        assert torch.equal(run.image, nst.load_image(run.content_image, 48))

    def test_noise_is_seeded(self, make_run):
        first, same, other = (make_run(start="noise", seed=seed).image for seed in (1, 1, 2))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
        assert abs(first.mean() - 0.5) < 0.02
        assert abs(first.std() - 12**-0.5) < 0.02

    def test_any_image(self, make_run, picture):
        image = picture(30, 80, seed=5)
        torch.testing.assert_close(make_run(start=image).image, resize(image, 36, 48))

    def test_recolored(self, make_run):
        run = make_run(start="recolored")
        content, style = nst.load_image(run.content_image, 48), run.regions[0].styles[0].image
        torch.testing.assert_close(run.image, nst.recolor(content, style))

    def test_gray(self, make_run):
        assert (make_run(start="gray").image == 0.5).all()

    def test_the_styles_colors(self, make_run):
        run = make_run(start="style_colors", seed=3, sizes=(64,))
        style, image = run.regions[0].styles[0].image, run.image
        torch.testing.assert_close(image.mean((2, 3)), style.mean((2, 3)), atol=0.02, rtol=0)
        covariances = [torch.cov(x[0].flatten(1)) for x in (image, style)]
        torch.testing.assert_close(*covariances, atol=5e-3, rtol=0)
        neighbors = torch.corrcoef(torch.stack([image[0, 0, :, 1:].flatten(), image[0, 0, :, :-1].flatten()]))
        assert neighbors[0, 1].abs() < 0.1  # noise
        assert not torch.equal(image, make_run(start="style_colors", seed=4, sizes=(64,)).image)

    @pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
    def test_a_blend_with_noise(self, make_run, noise):
        image = make_run(start="content", noise=noise, seed=5).image
        expected = (1 - noise) * make_run(start="content").image + noise * make_run(start="noise", seed=5).image
        torch.testing.assert_close(image, expected)

    def test_bad_noise(self, make_run):
        with pytest.raises(ValueError, match="noise: expected a finite number, from 0 to 1, got 2"):
            make_run(noise=2)

    @pytest.mark.parametrize("quality", QUALITIES)
    def test_quality_says_steps_and_start(self, make_run, quality):
        run = make_run(quality=quality, steps=None, start=None, sizes=(32, 40, 48))
        coarse, fine, start = QUALITIES[quality]
        assert run.settings.steps == (coarse, coarse, fine)
        torch.testing.assert_close(run.image, make_run(start=start, sizes=(32, 48)).image)
        assert make_run(quality=quality, sizes=(32, 48), steps=10).settings.steps == (4, 10)
        assert torch.equal(make_run(quality=quality, start="noise").image, make_run(start="noise").image)

    def test_bad_quality(self, make_run):
        with pytest.raises(ValueError, match="quality: expected one of draft, good, best, got 'ultra'"):
            make_run(quality="ultra")

    def test_bad_start(self, make_run):
        with pytest.raises(ValueError, match="start: expected one of content, recolored, noise"):
            make_run(start="style")
