//! Median and spread of repeated measurements, and quantiles of many.
//!
//! Machines drift; a single run says little. Everything this crate reports is a median of several runs with its
//! minimum and maximum, and comparisons are ratios of runs taken in turn.

/// Median, minimum and maximum of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Smallest value.
    pub min: f64,
    /// Middle value; the mean of the two middle ones for an even count.
    pub median: f64,
    /// Largest value.
    pub max: f64,
}

impl Spread {
    /// Of `values`; `None` if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len().is_multiple_of(2) {
            sorted.get(middle.checked_sub(1)?).map_or(upper, |lower| (lower + upper) / 2.0)
        } else {
            upper
        };
        Some(Self { min, median, max })
    }
}

/// The value below which this share of them lies, from 0 to 1; of 1, the largest. `sorted` from the least on; `None` if there
/// are none.
#[must_use]
pub fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let place = (sorted.len() as f64 * share) as usize;
    sorted.get(place.min(sorted.len().checked_sub(1)?)).copied()
}

#[cfg(test)]
mod tests {
    use super::{Spread, quantile};

    #[test]
    fn median_of_odd_and_even_series() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
    }

    #[test]
    fn quantiles_are_values_of_the_series() {
        assert_eq!(quantile::<u32>(&[], 0.5), None);
        let sorted = [1, 2, 3, 4];
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile(&sorted, share)), [1, 3, 4, 4].map(Some));
    }
}
