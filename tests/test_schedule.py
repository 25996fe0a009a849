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
            ((512, 512), (200, 320, 512)),
            ((256, 200), (160, 256)),
            ((100, 150), (150,)),
            ((1000, 700), (152, 244, 391, 625, 1000)),
            ((64, 1024), (250, 400, 640, 1024)),
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


class TestNarrowPictures:
    """Sizes that the toolkit chooses are adapted to all pictures; sizes that the user gives are refused."""

    def run(self, vgg, content, style, **settings):
        return nst.StyleTransfer(content, style, network=vgg, **{"steps": 1, "start": "content"} | settings)

    @pytest.mark.parametrize(
        ("content", "style", "sizes"),
        [
            ((256, 256), (300, 3300), (171, 256)),  # 160 px would be 15 px high
            ((256, 256), (3300, 300), (171, 256)),
            ((512, 512), (300, 3900), (202, 320, 512)),
            ((256, 256), (300, 2700), (160, 256)),
            ((256, 200), (50, 1000), (256,)),  # even the last is too small for the style
            ((64, 64), (300, 3000), (64,)),
            ((60, 600), (160, 640), (234, 375, 600)),
            ((16, 320), (320, 16), (320,)),
        ],
    )
    def test_default_sizes(self, content, style, sizes, vgg, picture):
        run = self.run(vgg, picture(*content), picture(*style, seed=1))
        assert run.settings.sizes == sizes
        assert run.step().style > 0

    def test_transfer(self, vgg, picture):
        result = nst.transfer(picture(128, 128), picture(30, 300, 1), network=vgg, steps=1, progress=False)
        assert result.image.shape == (1, 3, 128, 128)

    @pytest.mark.long
    def test_every_style(self, vgg, picture):
        """In sequences, in regions, with a scale, and saved, the most demanding one counts."""
        content, scroll, style = picture(256, 256), picture(300, 3000, 1), picture(256, 256, 2)
        left = torch.zeros(1, 1, 256, 256)
        left[..., :100] = 1
        regions = [nst.Region(left, style), nst.Region(1 - left, [style, nst.Style(scroll, scale=0.7)])]
        saved = nst.save_style(None, scroll, vgg, sizes=(160, 300))
        for styles, sizes in {
            "sequence": ([style, scroll], (160, 256)),
            "regions": (regions, (222, 256)),
            "larger": (nst.Style(scroll, scale=2), (160, 256)),
            "smaller": (nst.Style(style, scale=0.1), (160, 256)),
            "smallest": (nst.Style(scroll, scale=0.01), (256,)),
            "saved": ([saved, style], (160, 256)),
            "saved, smallest": (nst.Style(saved, scale=0.01), (160, 256)),
        }.values():
            run = self.run(vgg, content, styles, steps=(1, 1) if len(sizes) == 2 else 1)
            assert run.settings.sizes == sizes
            assert [record.size for record in run] == list(sizes)

    @pytest.mark.parametrize("quality", QUALITIES)
    def test_steps_stay(self, quality, vgg, picture):
        coarse, fine = QUALITIES[quality]
        content, scroll = picture(256, 256), picture(300, 3000, 1)
        assert self.run(vgg, content, scroll, quality=quality, steps=None).settings.steps == (coarse, fine)
        assert self.run(vgg, content, scroll, steps=(3, 0)).settings.steps == (3, 0)
        assert self.run(vgg, content, picture(50, 1000), steps=(3, 0)).settings.steps == (3,)

    def test_a_saved_style_of_a_scroll(self, vgg, picture):
        scroll = picture(20, 300, 1)
        assert set(nst.save_style(None, scroll, vgg).statistics) == {300}
        run = self.run(vgg, picture(64, 64), nst.save_style(None, scroll, vgg), start="recolored")
        assert run.step().style > 0

    def test_recipes_repeat_them(self, vgg, picture):
        for style in (picture(30, 300, 1), picture(20, 600, 1)):
            first = nst.transfer(picture(128, 128), style, network=vgg, steps=1, progress=False)
            again = nst.transfer(picture(128, 128), style, network=vgg, recipe=first.recipe, progress=False)
            assert torch.equal(first.image, again.image)
            assert first.recipe["settings"] == again.recipe["settings"]

    @pytest.mark.parametrize(
        ("content", "style", "sizes", "said"),
        [
            ((256, 256), (300, 3000), (128, 256), "style_image: .+ at least 16 px for the network, got 128×13 px"),
            ((256, 256), (300, 3000), [128], "style_image: .+ got 128×13 px"),
            ((256, 256), (3000, 300), 154, "style_image: .+ got 15×154 px"),
            ((100, 1000), (256, 256), (128,), "content_image: .+ got 128×13 px"),
        ],
    )
    def test_given_sizes(self, content, style, sizes, said, vgg, picture):
        left = torch.zeros(1, 1, *content)
        left[..., :20] = 1
        style = picture(*style, seed=1)
        for styles in (style, [picture(256, 256), style], nst.Region(left, style)):
            with pytest.raises(ValueError, match=said):
                self.run(vgg, picture(*content), styles, sizes=sizes)

    def test_a_given_size_at_which_all_fit(self, vgg, picture):
        assert self.run(vgg, picture(256, 256), picture(300, 3000, 1), sizes=155).step().style > 0
        with pytest.raises(ValueError, match=r"style_image: .+ got 154×15 px"):
            self.run(vgg, picture(308, 308), nst.Style(picture(300, 3000, 1), scale=0.5), sizes=308)


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
        run = make_run(start=nst.Settings().start)  # the default
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
    def test_quality_says_steps(self, make_run, quality):
        run = make_run(quality=quality, steps=None, sizes=(32, 40, 48))
        coarse, fine = QUALITIES[quality]
        assert run.settings.steps == (coarse, coarse, fine)
        assert make_run(quality=quality, sizes=(32, 48), steps=10).settings.steps == (4, 10)

    def test_bad_quality(self, make_run):
        with pytest.raises(ValueError, match="quality: expected one of draft, good, best, got 'ultra'"):
            make_run(quality="ultra")

    def test_bad_start(self, make_run):
        with pytest.raises(ValueError, match="start: expected one of content, recolored, noise"):
            make_run(start="style")
