//! How often a bound on what engines may ask for or hold up was reached.

use super::Plane;

impl Plane {
    /// (name, value), beside the others in [`super::Stats::plain`].
    pub(super) fn bound_figures(&self) -> Vec<(&'static str, u64)> {
        let expected = &self.tier.expected;
        vec![
            ("promotions_waiting", expected.len() as u64),
            ("promotions_joined", expected.joined),
            ("promotions_declined", expected.declined),
            ("index_displaced", self.counters.index_displaced),
            ("panics_contained", self.counters.panics_contained),
            ("steps_expelled", self.counters.steps_expelled),
            ("engines_expelled", self.engines.iter().flatten().filter(|engine| engine.is_expelled()).count() as u64),
        ]
    }
}
