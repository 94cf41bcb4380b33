"""D1, D2 and D3 once more, straight from their definitions: loops, no tricks, exact fractions."""

import math
from fractions import Fraction


def class_ap(scores, labels, k):
    """D1: one Fraction a class, or None for a class without positives."""
    num_classes = len(scores[0])
    retrieved = [set(_best(row, k)) for row in scores]
    result = []
    for c in range(num_classes):
        images = [i for i in range(len(scores)) if c in retrieved[i]]
        pairs = [(scores[i][c], c in labels[i]) for i in images]
        num_positives = sum(c in row for row in labels)
        result.append(_sum_of_precisions(pairs) / num_positives if num_positives else None)
    return result


def top_images_ap(scores, labels, k):
    """D2: one Fraction a class, or None for a class without positives."""
    result = []
    for c in range(len(scores[0])):
        column = [row[c] for row in scores]
        pairs = [(column[i], c in labels[i]) for i in _best(column, k)]
        num_positives = sum(c in row for row in labels)
        total = _sum_of_precisions(pairs)
        result.append(total / min(num_positives, k) if num_positives else None)
    return result


def image_ap(scores, labels, weights, k):
    """D3: one Fraction an image, or None where its labels weigh nothing."""
    result = []
    for row, positives in zip(scores, labels, strict=True):
        kept = _best(row, k)
        total = Fraction(0)
        for c in kept:
            if c in positives:
                rivals = [other for other in kept if row[other] >= row[c]]
                hits = sum(other in positives for other in rivals)
                total += Fraction(weights[c]) * Fraction(hits, len(rivals))
        largest = sorted((Fraction(weights[c]) for c in positives), reverse=True)[:k]
        result.append(total / sum(largest) if sum(largest) else None)
    return result


def _best(values, k):
    """Indices of the k highest values that were scored; of equal ones the lower index."""
    scored = [i for i in range(len(values)) if values[i] != -math.inf]
    return sorted(scored, key=lambda i: (-values[i], i))[:k]


def _sum_of_precisions(pairs):
    total = Fraction(0)
    for score, hit in pairs:
        if hit:
            above = [other_hit for other, other_hit in pairs if other >= score]
            total += Fraction(sum(above), len(above))
    return total


def mean_class_ap(scores, labels, weights, k, multiplicity):
    """The weighted mean of D1, a Fraction, with every image counted `multiplicity` times."""
    retrieved = [set(_best(row, k)) for row in scores]
    total = total_weight = Fraction(0)
    for c in range(len(scores[0])):
        num_positives = sum(
            times for row, times in zip(labels, multiplicity, strict=True) if c in row
        )
        if not num_positives:
            continue
        images = [i for i in range(len(scores)) if c in retrieved[i]]
        ap = Fraction(0)
        for hit in images:
            if c in labels[hit]:
                above = [i for i in images if scores[i][c] >= scores[hit][c]]
                num_hits = sum(multiplicity[i] for i in above if c in labels[i])
                precision = Fraction(num_hits) / sum(multiplicity[i] for i in above)
                ap += multiplicity[hit] * precision / num_positives
        total += Fraction(weights[c]) * ap
        total_weight += Fraction(weights[c])
    return total / total_weight if total_weight else None
