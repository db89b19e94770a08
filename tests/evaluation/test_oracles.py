"""Every metric of the catalogue has an oracle: a closed form, a naive loop or another library."""

import re
from pathlib import Path

import pytest

from whence.evaluation.catalogue import METRICS, TRAINED

TESTS = Path(__file__).parents[1]
LOOP = "test_a_curve_is_the_one_of_a_loop_over_pixels_and_images"
AREA = "test_an_area_is_the_one_of_a_loop_over_images_and_shares"
SUBSETS = "test_a_faithfulness_correlation_is_a_loop_over_subsets"
STAGE = "test_a_stage_is_scipys_correlation_of_the_maps_of_a_network_with_its_weights"
SENSITIVITY = "test_a_sensitivity_is_a_loop_over_images_and_draws"
IOU = "test_the_iou_is_that_of_as_many_pixels_as_the_mask_has"

ORACLES = {
    "insertion": ("faithfulness", LOOP),
    "deletion": ("faithfulness", LOOP),
    "pixel-flipping": ("perturbation", "test_pixel_flipping_is_a_loop_over_pixels"),
    "srg": ("perturbation", "test_property_48_srg_of_random_maps_is_about_zero"),
    "road": ("perturbation", "test_road_is_a_loop_over_shares_with_imputed_images"),
    "region-perturbation": (
        "perturbation",
        "test_aopc_is_the_mean_fall_over_a_loop_of_regions",
    ),
    "irof": (
        "perturbation",
        "test_irof_is_the_area_over_a_loop_of_superpixels_whose_number_differs",
    ),
    "idsds": ("idsds", "test_a_score_is_scipys_correlation_in_a_loop_over_images_and_cells"),
    "completeness": ("soundness", "test_both_are_their_definition_in_a_loop"),
    "soundness": ("soundness", "test_both_are_their_definition_in_a_loop"),
    **dict.fromkeys(("kpm", "knm", "kam", "rpm", "rnm", "ram"), ("masking", AREA)),
    "faithfulness-correlation": ("correlation", SUBSETS),
    "sensitivity-n": (
        "correlation",
        "test_sensitivity_n_is_the_mean_of_the_correlations_of_each_size",
    ),
    "faithfulness-estimate": (
        "correlation",
        "test_a_faithfulness_estimate_is_a_loop_over_segments",
    ),
    "monotonicity-correlation": (
        "correlation",
        "test_a_monotonicity_correlation_is_a_loop_over_segments_and_draws",
    ),
    "monotonicity": ("correlation", "test_monotonicity_is_a_loop_that_puts_segments_back"),
    "infidelity": ("correlation", "test_infidelity_of_squares_is_a_mean_over_a_loop"),
    "completeness-gap": ("correlation", "test_the_gap_is_what_is_missing_of_the_difference"),
    "max-sensitivity": ("robustness", SENSITIVITY),
    "average-sensitivity": ("robustness", SENSITIVITY),
    "pointing-game": ("localisation", "test_the_pointing_game_is_hit_inside_and_missed_outside"),
    "relevance-mass": ("localisation", "test_relevance_mass_is_the_positive_share_inside"),
    "relevance-rank": ("localisation", "test_relevance_rank_counts_the_highest_pixels_inside"),
    "energy-pointing": (
        "localisation",
        "test_energy_pointing_is_the_mass_over_the_share_of_the_mask",
    ),
    "area-iou": ("localisation", IOU),
    "threshold-iou": ("localisation", "test_the_threshold_is_a_share_of_the_maximum"),
    "map-auc": (
        "localisation",
        "test_the_area_under_roc_is_scikit_learns_with_and_without_ties",
    ),
    "focus": ("mosaics", "test_focus_is_the_positive_share_on_the_images_of_the_class"),
    "gini": ("agreement", "test_gini_is_the_mean_difference_over_twice_the_mean"),
    "entropy": ("complexity", "test_entropy_is_scipys_of_the_absolute_sums_over_channels"),
    "effective-pixels": (
        "complexity",
        "test_a_map_that_is_constant_on_some_pixels_uses_these",
    ),
    "participation": ("complexity", "test_participation_is_its_formula"),
    "mass-area": ("complexity", "test_the_mass_area_counts_the_last_pixel_in_part"),
    "spearman": ("agreement", "test_spearman_is_scipys_with_and_without_ties"),
    "top-overlap": (
        "agreement",
        "test_top_overlap_is_intersection_over_union_of_the_highest_pixels",
    ),
    "ssim": ("ssim", "test_it_is_scikit_images_similarity_of_the_maps_from_0_to_1"),
    "hog": ("hog", "test_it_is_the_correlation_of_scikit_images_histograms"),
    "top-agreement": ("top_agreement", "test_it_is_the_papers_share_where_nothing_ties"),
    "mprt": ("sanity", STAGE),
    "smooth-mprt": (
        "sanity",
        "test_a_smoothed_map_is_the_mean_of_the_clean_and_the_noisy_ones",
    ),
    "efficient-mprt": ("sanity", "test_the_entropies_are_scipys_of_numpys_histograms"),
    "random-logit": (
        "random_logit",
        "test_of_a_linear_network_the_weights_of_the_classes_are_compared",
    ),
    "data-randomisation": (
        "sanity",
        "test_maps_are_compared_with_those_of_the_second_network",
    ),
    "roar": ("../recipes/roar", "test_masked_images_are_those_of_a_loop"),
}


def test_every_metric_of_the_catalogue_is_listed():
    assert set(ORACLES) == {*METRICS, *TRAINED}


@pytest.mark.parametrize("name", ORACLES)
def test_the_oracle_of_a_metric_is_a_test_that_runs(name):
    file, test = ORACLES[name]
    place, _, stem = file.rpartition("/")
    text = (TESTS / "evaluation" / place / f"test_{stem}.py").read_text(encoding="utf-8")
    assert re.search(rf"^def {test}\(", text, re.MULTILINE)
