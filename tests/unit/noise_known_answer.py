#!/usr/bin/env python3
"""Prints the known answers of noise_handshake_test.cpp: one WireGuard handshake, written from the whitepaper alone.

Independent of the code under test: hashlib and hmac for BLAKE2s, the `cryptography` package (OpenSSL) for X25519 and
ChaCha20-Poly1305. Letters and steps are those of wg 5.4.2 to 5.4.6.
"""
import hashlib
import hmac
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


def Hash(x): return hashlib.blake2s(x).digest()
def Mac(key, x): return hashlib.blake2s(x, key=key, digest_size=16).digest()
def Hmac(key, x): return hmac.new(key, x, "blake2s").digest()
def Aead(key, text, ad): return ChaCha20Poly1305(key).encrypt(bytes(12), text, ad)
def DH(secret, public): return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
def Pub(secret): return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def Kdf(n, key, x):
    t0, t, out = Hmac(key, x), b"", []
    for i in range(1, n + 1):
        t = Hmac(t0, t + bytes([i]))
        out.append(t)
    return out


Si, Sr, Ei, Er, Q = (bytes([n]) * 32 for n in (0x11, 0x22, 0x33, 0x44, 0x55))
timestamp = bytes.fromhex("400000006a0000000a000000")
Ii, Ir = (0x01020304).to_bytes(4, "little"), (0x0a0b0c0d).to_bytes(4, "little")

C = Hash(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
H = Hash(C + b"WireGuard v1 zx2c4 Jason@zx2c4.com")
H = Hash(H + Pub(Sr))

C = Kdf(1, C, Pub(Ei))[0]
H = Hash(H + Pub(Ei))
C, k = Kdf(2, C, DH(Ei, Pub(Sr)))
static = Aead(k, Pub(Si), H)
H = Hash(H + static)
C, k = Kdf(2, C, DH(Si, Pub(Sr)))
stamp = Aead(k, timestamp, H)
H = Hash(H + stamp)
first = bytes([1, 0, 0, 0]) + Ii + Pub(Ei) + static + stamp
first += Mac(Hash(b"mac1----" + Pub(Sr)), first) + bytes(16)

C = Kdf(1, C, Pub(Er))[0]
H = Hash(H + Pub(Er))
C = Kdf(1, C, DH(Er, Pub(Ei)))[0]
C = Kdf(1, C, DH(Er, Pub(Si)))[0]
C, tau, k = Kdf(3, C, Q)
H = Hash(H + tau)
empty = Aead(k, b"", H)
H = Hash(H + empty)
second = bytes([2, 0, 0, 0]) + Ir + Ii + Pub(Er) + empty
second += Mac(Hash(b"mac1----" + Pub(Si)), second) + bytes(16)

to_responder, to_initiator = Kdf(2, C, b"")
for name, value in [("first", first), ("second", second), ("to_responder", to_responder),
                    ("to_initiator", to_initiator), ("exporter", Kdf(1, C, b"wireplane exporter" + H)[0])]:
    print(name, value.hex())
