//! How long bytes take from one site to another.

use std::{fmt, str::FromStr};

use crate::{
    dice::{Chance, Dice},
    time::Span,
};

/// The distribution of a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    Constant(Span),
    /// At least `least`, and in addition an exponentially distributed time.
    Exponential {
        least: Span,
        mean: Span,
    },
    /// Half of the draws below twice `least`, one in a hundred above a hundred times `least`, none above `most`.
    HeavyTail {
        least: Span,
        most: Span,
    },
    /// `slow` with a chance, else `fast`: for example two paths.
    Bimodal {
        fast: Span,
        slow: Span,
        chance: Chance,
    },
}

impl Delay {
    pub fn draw(self, dice: &mut Dice) -> Span {
        match self {
            Self::Constant(span) => span,
            Self::Exponential { least, mean } => least + dice.exponential(mean),
            Self::HeavyTail { least, most } => dice.heavy_tail(least, most),
            Self::Bimodal { fast, slow, chance } => {
                if dice.chance(chance) {
                    slow
                } else {
                    fast
                }
            }
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(span) => write!(f, "constant:{span}"),
            Self::Exponential { least, mean } => write!(f, "exponential:{least}:{mean}"),
            Self::HeavyTail { least, most } => write!(f, "heavy-tail:{least}:{most}"),
            Self::Bimodal { fast, slow, chance } => write!(f, "bimodal:{fast}:{slow}:{}", chance.0),
        }
    }
}

/// Why a text is no [`Delay`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a delay: constant:SPAN, exponential:LEAST:MEAN, heavy-tail:LEAST:MOST or bimodal:FAST:SLOW:PPM"
)]
pub struct DelayError(String);

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let error = || DelayError(text.to_owned());
        let span = |text: &str| text.parse::<Span>().map_err(|_| error());
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            ["constant", value] => Ok(Self::Constant(span(value)?)),
            ["exponential", least, mean] => Ok(Self::Exponential { least: span(least)?, mean: span(mean)? }),
            ["heavy-tail", least, most] => Ok(Self::HeavyTail { least: span(least)?, most: span(most)? }),
            ["bimodal", fast, slow, ppm] => Ok(Self::Bimodal {
                fast: span(fast)?,
                slow: span(slow)?,
                chance: Chance(ppm.parse().map_err(|_| error())?),
            }),
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_delay_is_read_back() {
        let delays = [
            Delay::Constant(Span::milliseconds(1)),
            Delay::Exponential { least: Span::microseconds(50), mean: Span::milliseconds(2) },
            Delay::HeavyTail { least: Span::microseconds(100), most: Span::seconds(2) },
            Delay::Bimodal { fast: Span(1), slow: Span::seconds(1), chance: Chance::percent(3) },
        ];
        for delay in delays {
            assert_eq!(delay.to_string().parse(), Ok(delay));
        }
        assert!("constant:1".parse::<Delay>().is_err());
    }
}
