//! Messages on streams that are mostly silent.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{self, BufferSettings};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a stream holds for each direction while nothing is said; it grows with what is. An operator holds a stream for every proxy of its
/// cluster, and what is said every second is some hundred bytes: tonic's own 8 KiB would be a quarter of what a proxy costs it.
const IDLE_BUFFER: usize = 512;
/// What is encoded before it is sent, as tonic has it.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// The codec of every method here.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(IDLE_BUFFER, YIELD_THRESHOLD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(IDLE_BUFFER, YIELD_THRESHOLD))
    }
}
