//! What targets are asked for, day by day, and what that costs. Counters and prices are integers.
//!
//! Requests are counted by how Azure bills them, which is not how they are named. Source: Azure, "Map each REST
//! operation to a price", general purpose v2. It names no page operations; the pricing page of page blobs does: what
//! puts or clears pages is a write, and a list of ranges is taken for what a list of blocks is.
//!
//! A cost is what these requests and bytes come to at these prices, and not a bill: what is stored is not in it.

use std::collections::BTreeMap;

use everpoint_units::WallTime;

/// Most days that are remembered. The oldest is forgotten first.
pub const DAYS_MAX: usize = 32;
/// Highest price that is taken. Unit: units of the currency.
const PRICE_MAX: f64 = 1e6;
const MICROS: f64 = 1e6;
const MICROS_A_DAY: u64 = 86_400_000_000;
/// Requests are priced by so many.
const PRICED_REQUESTS: u128 = 10_000;
const GIB: u128 = 1 << 30;

/// How a request is billed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RequestKind {
    /// Creates, puts, clears.
    Write,
    /// Reads.
    Read,
    /// Lists, properties, leases, snapshots.
    Other,
    /// Deletes, which cost nothing.
    Delete,
}

/// A day of the calendar, in UTC. Unit: days since 1970.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UtcDay(pub u64);

/// What targets were asked for, for the last [`DAYS_MAX`] days on which they were asked for anything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    days: BTreeMap<UtcDay, DayTraffic>,
}

/// What targets were asked for on one day.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DayTraffic {
    requests: [u64; RequestKind::ALL.len()],
    /// Into targets: what writes carried. Unit: bytes.
    pub bytes_in: u64,
    /// Out of targets: what reads answered. Unit: bytes.
    pub bytes_out: u64,
}

/// What an account charges. What is left out costs nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// What prices are in, as in `"EUR"`.
    pub currency: String,
    /// Of [`RequestKind::Write`].
    pub write_per_10000: Price,
    /// Of [`RequestKind::Read`].
    pub read_per_10000: Price,
    /// Of [`RequestKind::Other`].
    pub other_per_10000: Price,
    /// Of what leaves the account's region.
    pub egress_per_gib: Price,
}

/// A price; in a configuration a number of units of the currency, 0 to a million.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, serde::Deserialize)]
#[serde(try_from = "f64")]
pub struct Price(Micros);

/// Money. Unit: millionths of a unit of the currency.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Micros(pub u64);

/// A number that is no price.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is no price: write units of the currency, from 0 to 1000000, as in 0.0065")]
pub struct PriceError(f64);

impl RequestKind {
    pub const ALL: [Self; 4] = [Self::Write, Self::Read, Self::Other, Self::Delete];

    const fn index(self) -> usize {
        match self {
            Self::Write => 0,
            Self::Read => 1,
            Self::Other => 2,
            Self::Delete => 3,
        }
    }
}

impl UtcDay {
    /// The day that a time lies in.
    pub const fn of(time: WallTime) -> Self {
        Self(time.0 / MICROS_A_DAY)
    }
}

impl Traffic {
    /// Adds requests of one kind, and the bytes that they moved: writes move them in, all others out. Unit: bytes.
    pub fn record(&mut self, day: UtcDay, kind: RequestKind, requests: u64, bytes: u64) {
        let traffic = self.days.entry(day).or_default();
        let counted = &mut traffic.requests[kind.index()];
        *counted = counted.saturating_add(requests);
        let moved = match kind {
            RequestKind::Write => &mut traffic.bytes_in,
            RequestKind::Read | RequestKind::Other | RequestKind::Delete => &mut traffic.bytes_out,
        };
        *moved = moved.saturating_add(bytes);
        while DAYS_MAX < self.days.len() {
            self.days.pop_first();
        }
    }

    /// The days that are remembered, rising.
    pub fn days(&self) -> impl Iterator<Item = (UtcDay, DayTraffic)> + '_ {
        self.days.iter().map(|(&day, &traffic)| (day, traffic))
    }
}

impl DayTraffic {
    /// How many requests of a kind.
    pub const fn requests(&self, kind: RequestKind) -> u64 {
        self.requests[kind.index()]
    }

    /// As if another's requests had been these targets', too.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.requests.iter_mut().zip(&other.requests) {
            *count += more;
        }
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

impl Prices {
    /// Whether anything has a price.
    pub fn is_priced(&self) -> bool {
        let all = [
            self.write_per_10000,
            self.read_per_10000,
            self.other_per_10000,
            self.egress_per_gib,
        ];
        all.iter().any(|price| *price != Price::default())
    }

    /// What a day's requests and bytes come to, each to the nearest millionth.
    pub fn cost(&self, day: &DayTraffic) -> Micros {
        let requests = [
            (RequestKind::Write, self.write_per_10000),
            (RequestKind::Read, self.read_per_10000),
            (RequestKind::Other, self.other_per_10000),
        ];
        // No overflow: 2^64 requests, at 2^40 each, four times.
        let requests: u128 = requests
            .iter()
            .map(|(kind, price)| u128::from(day.requests(*kind)) * price.micros())
            .sum();
        let egress = u128::from(day.bytes_out) * self.egress_per_gib.micros();
        let cost = nearest(requests, PRICED_REQUESTS) + nearest(egress, GIB);
        Micros(u64::try_from(cost).unwrap_or(u64::MAX))
    }
}

impl Price {
    /// A price of so many millionths.
    pub const fn of(micros: Micros) -> Self {
        Self(micros)
    }

    fn micros(self) -> u128 {
        self.0.0.into()
    }
}

impl TryFrom<f64> for Price {
    type Error = PriceError;

    fn try_from(units: f64) -> Result<Self, PriceError> {
        if !(0.0..=PRICE_MAX).contains(&units) {
            return Err(PriceError(units));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number from 0 to 10^12"
        )]
        let micros = (units * MICROS).round() as u64;
        Ok(Self(Micros(micros)))
    }
}

fn nearest(sum: u128, of: u128) -> u128 {
    (sum + of / 2) / of
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: UtcDay = UtcDay(20_785);

    #[test]
    fn what_is_recorded_of_a_day_adds_up_by_kind_and_direction() {
        let mut traffic = Traffic::default();
        traffic.record(DAY, RequestKind::Write, 2, 8_192);
        traffic.record(DAY, RequestKind::Write, 1, 512);
        traffic.record(DAY, RequestKind::Read, 1, 4_096);
        traffic.record(DAY, RequestKind::Other, 5, 0);
        traffic.record(DAY, RequestKind::Delete, 1, 0);
        traffic.record(UtcDay(DAY.0 + 1), RequestKind::Read, 1, 1);
        let days: Vec<_> = traffic.days().collect();
        assert_eq!(days.len(), 2);
        let (day, counted) = days[0];
        assert_eq!(day, DAY);
        let requests = RequestKind::ALL.map(|kind| counted.requests(kind));
        assert_eq!(requests, [3, 1, 5, 1]);
        assert_eq!((counted.bytes_in, counted.bytes_out), (8_704, 4_096));
    }

    #[test]
    fn the_oldest_day_is_forgotten_whatever_the_clock_does() {
        let mut traffic = Traffic::default();
        // A clock that was far ahead once costs one place, and no other day.
        traffic.record(UtcDay(u64::MAX), RequestKind::Read, 1, 0);
        for day in 0..100 {
            traffic.record(UtcDay(day), RequestKind::Read, 1, 0);
        }
        traffic.record(UtcDay(3), RequestKind::Read, 1, 0);
        let days: Vec<_> = traffic.days().map(|(day, _)| day.0).collect();
        let expected: Vec<_> = (69..100).chain([u64::MAX]).collect();
        assert_eq!(days, expected);
        assert_eq!(days.len(), DAYS_MAX);
    }

    #[test]
    fn a_counter_that_is_full_stays_full() {
        let mut traffic = Traffic::default();
        traffic.record(DAY, RequestKind::Write, u64::MAX, u64::MAX);
        traffic.record(DAY, RequestKind::Write, 1, 1);
        let (_, counted) = traffic.days().next().unwrap();
        assert_eq!(counted.requests(RequestKind::Write), u64::MAX);
        assert_eq!(counted.bytes_in, u64::MAX);
    }

    #[test]
    fn a_day_ends_at_midnight_in_utc() {
        let before = WallTime::parse_rfc3339("2026-11-28T23:59:59.999999Z").unwrap();
        let after = WallTime::parse_rfc3339("2026-11-29T00:00:00Z").unwrap();
        assert_eq!(UtcDay::of(after).0, UtcDay::of(before).0 + 1);
        assert_eq!(UtcDay::of(WallTime(0)), UtcDay(0));
    }

    #[test]
    fn a_cost_is_the_sum_of_what_has_a_price() {
        let prices: Prices = toml::from_str(
            "currency = \"EUR\"\nwrite_per_10000 = 0.05\nread_per_10000 = 0.004\negress_per_gib = 1",
        )
        .unwrap();
        let mut traffic = Traffic::default();
        traffic.record(DAY, RequestKind::Write, 30_000, 5 << 40);
        traffic.record(DAY, RequestKind::Read, 10_000, 3 << 29);
        traffic.record(DAY, RequestKind::Other, 1 << 40, 0);
        traffic.record(DAY, RequestKind::Delete, 1 << 40, 0);
        let (_, day) = traffic.days().next().unwrap();
        assert_eq!(prices.cost(&day), Micros(150_000 + 4_000 + 1_500_000));
        assert_eq!(prices.currency, "EUR");
        assert!(prices.is_priced());
    }

    #[test]
    fn a_cost_is_rounded_to_the_nearest_and_never_overflows() {
        let mut prices = Prices {
            write_per_10000: Price::of(Micros(5_000)),
            ..Prices::default()
        };
        let cost_of = |prices: &Prices, requests| {
            let mut traffic = Traffic::default();
            traffic.record(DAY, RequestKind::Write, requests, 0);
            prices.cost(&traffic.days().next().unwrap().1)
        };
        assert_eq!(cost_of(&prices, 0), Micros(0));
        assert_eq!(cost_of(&prices, 1), Micros(1));
        assert_eq!(cost_of(&prices, 2), Micros(1));
        assert_eq!(cost_of(&prices, 3), Micros(2));
        prices.write_per_10000 = Price::try_from(PRICE_MAX).unwrap();
        assert_eq!(cost_of(&prices, u64::MAX), Micros(u64::MAX));
    }

    #[test]
    fn without_prices_nothing_costs_anything() {
        let prices: Prices = toml::from_str("").unwrap();
        assert_eq!(prices, Prices::default());
        assert!(!prices.is_priced());
        let mut traffic = Traffic::default();
        traffic.record(DAY, RequestKind::Read, 1 << 40, 1 << 50);
        let (_, day) = traffic.days().next().unwrap();
        assert_eq!(prices.cost(&day), Micros(0));
    }

    #[test]
    fn what_is_no_price_is_refused_with_what_to_write() {
        for bad in ["-0.01", "1000001", "nan", "inf"] {
            let text = format!("read_per_10000 = {bad}");
            let refused = toml::from_str::<Prices>(&text).unwrap_err().to_string();
            assert!(refused.contains("as in 0.0065"), "{refused}");
        }
        let unknown = toml::from_str::<Prices>("writes_per_10000 = 1").unwrap_err();
        assert!(unknown.to_string().contains("unknown field"), "{unknown}");
    }
}
