#include "subbyte/simd/register.hpp"
#include "subbyte/simd/register.hpp"
int main(){}
