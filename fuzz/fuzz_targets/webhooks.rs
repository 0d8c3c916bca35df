#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mixrelay::fuzzing::webhooks(data));
