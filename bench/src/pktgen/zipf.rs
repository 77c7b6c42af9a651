//! Draws from a Zipf distribution: the k-th of n values comes up in proportion to 1 / k^s.
//!
//! By Vose's alias method: one table look-up for a draw whatever n is, and exact shares, for 8 bytes a value. So n is bounded.

use rand::RngExt;
use rand::rngs::SmallRng;

/// Most values of one distribution: a table of 32 MiB.
pub const MAX_VALUES: usize = 1 << 22;

/// The tables of one distribution.
#[derive(Debug, Clone)]
pub struct Zipf {
    /// For each column, the share of it (of 2^32) that is its own value, and the value of the rest.
    columns: Vec<(u32, u32)>,
}

impl Zipf {
    /// Of `values` values (1 to [`MAX_VALUES`]) with this exponent (0 is uniform, 1 is what is usual of popularity).
    #[must_use]
    pub fn new(values: usize, exponent: f64) -> Self {
        let values = values.clamp(1, MAX_VALUES);
        let weights: Vec<f64> = (1..=values).map(|k| (k as f64).powf(-exponent)).collect();
        let mean = weights.iter().sum::<f64>() / values as f64;
        let mut share: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut columns: Vec<(u32, u32)> = (0..values).map(|k| (u32::MAX, k as u32)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..values).partition(|k| share_of(&share, *k) < 1.0);
        while let (Some(low), Some(high)) = (small.pop(), large.pop()) {
            let own = share_of(&share, low);
            if let Some(column) = columns.get_mut(low) {
                *column = ((own * 4_294_967_296.0) as u32, high as u32);
            }
            let left = share_of(&share, high) + own - 1.0;
            if let Some(of_high) = share.get_mut(high) {
                *of_high = left;
            }
            if left < 1.0 { small.push(high) } else { large.push(high) }
        }
        Self { columns }
    }

    /// A value, from 0 (the most frequent) to `values - 1`.
    #[inline]
    pub fn draw(&self, random: &mut SmallRng) -> usize {
        let bits: u64 = random.random();
        let column = (((bits >> 32) * self.columns.len() as u64) >> 32) as usize;
        match self.columns.get(column) {
            Some((own, other)) if bits as u32 > *own => *other as usize,
            _ => column,
        }
    }
}

fn share_of(share: &[f64], of: usize) -> f64 {
    share.get(of).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn shares_are_those_of_the_law() {
        for (values, exponent) in [(1, 1.0), (10, 0.0), (100, 1.0), (1000, 1.3), (5, 2.0)] {
            let zipf = Zipf::new(values, exponent);
            let mut random = SmallRng::seed_from_u64(7);
            let mut counts = vec![0u32; values];
            let draws = 2_000_000;
            for _ in 0..draws {
                counts[zipf.draw(&mut random)] += 1;
            }
            let whole: f64 = (1..=values).map(|k| (k as f64).powf(-exponent)).sum();
            for (k, count) in counts.iter().enumerate() {
                let expected = f64::from(draws) * ((k + 1) as f64).powf(-exponent) / whole;
                // Six standard deviations.
                let slack = 6.0 * expected.sqrt() + 1.0;
                assert!(
                    (f64::from(*count) - expected).abs() < slack,
                    "{values} {exponent} {k}: {count} {expected}"
                );
            }
        }
    }
}
