//! Tests of the whole relay from outside; one binary, so that it links once.

mod cli;
