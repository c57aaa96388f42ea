"""`python -m t5x_lite` is `t5x-lite`."""
# SPDX-License-Identifier: Apache-2.0

from t5x_lite.main import main

if __name__ == '__main__':
    main()
