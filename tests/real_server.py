"""llama.cpp's own server in a process of its own: `python tests/real_server.py FILE.gguf [--embeddings] [--port N]`.

It prints its address and serves until it is killed. Needs the library xllamacpp.
"""

import argparse
import signal


def main() -> None:
    import xllamacpp

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--embeddings", action="store_true", help="serve /embeddings besides: means over the tokens")
    parser.add_argument("--context", type=int, default=4096, help="tokens of all slots together")
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.hostnames, params.port = ["127.0.0.1"], args.port
    params.n_ctx, params.n_parallel = args.context, 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if args.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
