#![no_main]

#[path = "../../decoders/drivers.rs"]
#[allow(dead_code, reason = "each target uses one driver")]
mod drivers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| drivers::checkpoint_file(data));
