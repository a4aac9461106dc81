"""CIDEr-D by hand, its identities, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tessella.caption_scores import caption_scores
from tessella.cider import LONGEST, Cider, cider, grams, words
from tessella.errors import InputError


def test_words_are_lower_case_and_without_punctuation():
    assert words("A dog's ball, 3-legged -- isn't it?  ") == ["a", "dog's", "ball", "3", "legged", "isn't", "it"]
    assert words(" . ,! ") == []
    assert words("Ein Hündchen läuft") == ["ein", "hündchen", "läuft"]


def test_ngrams_are_counted():
    one, two, three, four = grams("a b a b a")
    assert one == {("a",): 3, ("b",): 2}
    assert two == {("a", "b"): 2, ("b", "a"): 2}
    assert three == {("a", "b", "a"): 2, ("b", "a", "b"): 1}
    assert four == {("a", "b", "a", "b"): 1, ("b", "a", "b", "a"): 1}


def test_what_is_said_of_every_picture_weighs_nothing():
    scorer = Cider([["a dog", "a dog runs"], ["a cat"], ["a bird"]])
    assert scorer.weight(("a",)) == 0
    assert scorer.weight(("dog",)) == pytest.approx(math.log(3))  # of one picture, however often
    assert scorer.weight(("fish",)) == pytest.approx(math.log(3))


def test_two_words_against_one_reference_by_hand():
    """Pictures 2: "red dog" and "blue cat"; every word and bigram is of one picture and weighs w = log 2.

    Candidate "red cat": unigrams (red, cat), both norms w sqrt 2, common "red": w^2 / (2 w^2) = 1/2. Bigrams: none in
    common. n = 3, 4: there are none. CIDEr-D = 10 / 4 * 1/2.
    """
    references = [["red dog"], ["blue cat"]]
    assert Cider(references).scores(["red cat", "green bird"]) == pytest.approx([10 / 4 / 2, 0])


def test_more_of_a_word_than_the_reference_has_is_clipped_by_hand():
    """ "dog dog dog" against "dog runs": unigrams 3w and (w, w); min(3w, w) w / (3w * w sqrt 2) = 1 / (3 sqrt 2).

    The caption is one word longer, which takes exp(-1/72) of it.
    """
    references = [["dog runs"], ["cat sits"]]
    expected = 10 / 4 * math.exp(-1 / 72) / (3 * math.sqrt(2))
    assert Cider(references).scores(["dog dog dog", "x"])[0] == pytest.approx(expected)


def test_several_references_are_averaged_and_length_is_paid_for_by_hand():
    """Pictures 4, so that idf of a word of one picture is log 4, of two log 2.

    "red dog" against "red dog" is cosine 1 for n = 1, 2 only: 1/2 of the mean over n. Against "blue bird" it is 0. One
    picture's two references: (1/2 + 0) / 2 * 10. A caption six words longer keeps exp(-1/2).
    """
    references = [["red dog", "blue bird"], ["red cat"], ["fish"], ["tree"]]
    scorer = Cider(references)
    assert scorer.weight(("red",)) == pytest.approx(math.log(2))
    assert scorer.scores(["red dog", "", "", ""])[0] == pytest.approx(2.5)
    padded = "red dog " + " ".join(f"q{i}" for i in range(6))
    longer = scorer.weighted(grams(padded))
    ones = math.log(4) ** 2 + math.log(2) ** 2
    expected = ones / (math.sqrt(ones) * math.sqrt(ones + 6 * math.log(4) ** 2))
    expected += 1 / math.sqrt(7)
    assert scorer.scores([padded, "", "", ""])[0] == pytest.approx(10 / LONGEST * expected / 2 * math.exp(-0.5))
    assert longer.length == 8


def test_a_caption_equal_to_its_only_reference_scores_ten():
    references = [["a red dog runs on grass"], ["two cats sleep in the sun"]]
    assert Cider(references).scores([r[0] for r in references]) == pytest.approx([10, 10])
    assert cider([r[0].upper() + " !" for r in references], references) == pytest.approx(10)


def test_one_picture_alone_has_no_rare_words():
    assert cider(["a dog"], [["a dog"]]) == 0


def test_scores_do_not_depend_on_the_order_of_pictures_or_references():
    rng = np.random.default_rng(0)
    names = ["a", "dog", "cat", "runs", "red", "sits", "grass"]
    references = [[" ".join(rng.choice(names, rng.integers(2, 9))) for _ in range(3)] for _ in range(12)]
    captions = [" ".join(rng.choice(names, rng.integers(1, 9))) for _ in range(12)]
    scores = Cider(references).scores(captions)
    order = rng.permutation(12)
    moved = Cider([references[i][::-1] for i in order]).scores([captions[i] for i in order])
    assert moved == pytest.approx(scores[order])
    assert (scores >= 0).all() and (scores <= 10 + 1e-9).all()


@pytest.mark.parametrize("references", [[], [["a dog"], []]])
def test_pictures_without_references_are_refused(references):
    with pytest.raises(InputError, match="reference"):
        Cider(references)


def test_captions_must_be_as_many_as_pictures():
    with pytest.raises(InputError, match="2 captions for 1 pictures"):
        Cider([["a dog"]]).scores(["a", "b"])
    with pytest.raises(InputError, match="one each"):
        caption_scores([], [])


def test_caption_scores_know_several_references_of_any_number():
    references = [["a black dog runs in the snow .", "the dog plays outside ."], ["two children sit on a wall ."]]
    found = caption_scores([references[0][1], "two two children sit on a wall ."], references)
    assert (found.pictures, found.references, found.distinct, found.degenerate) == (2, 3, 2, 50.0)
    assert found.words == pytest.approx((5 + 8) / 2)
    by_name = {score.metric: score for score in found.scores}
    assert "case:lc" in by_name["bleu-4"].signature and "sigma:6" in by_name["cider"].signature
    perfect = caption_scores([several[0] for several in references], references)
    assert perfect.value("bleu-4") == pytest.approx(100) and perfect.value("chrf") == pytest.approx(100)
    assert found.value("bleu-4") < perfect.value("bleu-4")
