//! The loop that all targets share: choose an input of the corpus, mutate it, run the target, report.
//!
//! There is no feedback from coverage, which stable Rust does not offer; instead the corpus holds a valid input for
//! every shape, and the targets repair checksums, so that mutations reach the code behind them.

#[path = "../../core/protocol/tests/support/counting.rs"]
mod counting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs `work` and returns its result with the memory it held at its peak beyond what was held before.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    counting::peak_of(work)
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit as u64) as usize
    }
}

struct Arguments {
    seconds: u64,
    seed: u64,
    input: Option<PathBuf>,
}

/// Runs `target` on mutations of `corpus`, which holds one input per line in hexadecimal digits.
pub fn fuzz(name: &str, corpus: &str, target: impl Fn(&[u8])) -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\nusage: {name} [--seconds N] [--seed N] [--input FILE]");
            return ExitCode::from(2);
        }
    };
    if let Some(path) = arguments.input {
        match std::fs::read(&path) {
            Ok(input) => target(&input),
            Err(error) => {
                eprintln!("cannot read {}: {error}", path.display());
                return ExitCode::from(2);
            }
        }
        println!("{name}: the input passes");
        return ExitCode::SUCCESS;
    }

    let corpus: Vec<Vec<u8>> = corpus.lines().filter(|line| !line.is_empty()).map(from_hex).collect();
    assert!(!corpus.is_empty(), "a corpus has at least one input");
    for input in &corpus {
        target(input);
    }
    let mut random = Random::new(arguments.seed);
    #[allow(clippy::disallowed_methods, reason = "a fuzzer runs for a time; its inputs do not depend on the clock")]
    let start = Instant::now();
    let mut executions = 0u64;
    while start.elapsed() < Duration::from_secs(arguments.seconds) {
        // The clock is read once per round, so that the sequence of inputs depends on the seed only.
        for _ in 0..256 {
            let input = mutated(&corpus, &mut random);
            if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
                return report(name, arguments.seed, executions, &input);
            }
            executions += 1;
        }
    }
    let rate = executions as f64 / start.elapsed().as_secs_f64();
    println!("{name}: {executions} executions, {rate:.0} per second, seed {}", arguments.seed);
    ExitCode::SUCCESS
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments { seconds: 10, seed: 1, input: None };
    let mut rest = std::env::args().skip(1);
    while let Some(flag) = rest.next() {
        let value = rest.next().ok_or(format!("{flag} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{flag} needs a number, not {value}"));
        match flag.as_str() {
            "--seconds" => arguments.seconds = number()?,
            "--seed" => arguments.seed = number()?,
            "--input" => arguments.input = Some(PathBuf::from(value)),
            _ => return Err(format!("{flag} is not known")),
        }
    }
    Ok(arguments)
}

fn report(name: &str, seed: u64, execution: u64, input: &[u8]) -> ExitCode {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("failures");
    let path = directory.join(format!("{name}-seed-{seed}-execution-{execution}"));
    let written = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, input));
    match written {
        Ok(()) => eprintln!("{name}: failed on the input in {}", path.display()),
        Err(error) => {
            eprintln!("{name}: failed, but the input cannot be written ({error}): {input:02x?}")
        }
    }
    ExitCode::FAILURE
}

fn from_hex(line: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("the corpus is hexadecimal");
    (0..line.len()).step_by(2).map(digit).collect()
}

/// Numbers at which decoders go wrong.
const INTERESTING: [&[u8]; 12] = [
    &[0x00],
    &[0x01],
    &[0x7f],
    &[0xff],
    &[0xff, 0xff],
    &[0x7f, 0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0x00, 0x00, 0x00],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x00, 0x10, 0x00, 0x00],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
];

fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len() + 1);
        let end = (at + 1 + random.below(16)).min(input.len());
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.number() as u8,
            2 => {
                let with = INTERESTING[random.below(INTERESTING.len())];
                let count = with.len().min(input.len() - at);
                input[at..at + count].copy_from_slice(&with[..count]);
            }
            3 => drop(input.splice(at..at, INTERESTING[random.below(INTERESTING.len())].iter().copied())),
            4 => drop(input.drain(at..end)),
            5 => {
                let copy = input[at..end].to_vec();
                let times = 1 + random.below(40);
                drop(input.splice(at..at, copy.repeat(times)));
            }
            6 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                let count = random.below(64).min(other.len() - from);
                drop(input.splice(at..at, other[from..from + count].iter().copied()));
            }
            7 if random.below(8) == 0 => drop(input.splice(at..at, run(random))),
            _ => input.truncate(at.max(input.len() / 2)),
        }
    }
    input
}

/// A count, fixed or compact, and as many small elements: what takes most memory for its length.
fn run(random: &mut Random) -> Vec<u8> {
    let count = 1 << random.below(13);
    let mut run = match random.below(2) {
        0 => (count as u32).to_be_bytes().to_vec(),
        _ => vec![(count + 1) as u8 & 0x7f | 0x80, ((count + 1) >> 7) as u8],
    };
    let element = vec![random.below(2) as u8; 1 + random.below(8)];
    run.extend(element.repeat(count));
    run
}
